"""Leases for a grant: its limits occupied on the server in canonical order, without waiting, all of them or none.

Intent is written before each call and the lease after it, so that the rows of a dead process tell every slot it may
have taken. A lease that another grant handed over is not asked for again.
"""

import asyncio
from collections.abc import Collection, Iterable
from enum import Enum, auto
from functools import lru_cache, partial
from typing import NamedTuple
from uuid import UUID

from prefect_slots.errors import ServerUnreachable
from prefect_slots.leases.release import Releaser
from prefect_slots.ledger import changed, failpoints, leases, registry, store, transaction
from prefect_slots.ledger.leases import Call, LeaseRow, LeaseState
from prefect_slots.limits import events, naming, outcome
from prefect_slots.limits.gateway import Gateway
from prefect_slots.model import Holding, Scope
from prefect_slots.scheduling.canonical_order import calls
from prefect_slots.system import clock

# Releases of our own arrive within milliseconds; after a second the server itself must say that there is no room.
_PATIENCE_SECONDS = 1.0
# A server that has just failed is left alone: each further grant would wait out the same time limit.
_AWAY_SECONDS = 1.0
# A release takes a few milliseconds; a longer pause would show in each change of hands.
_PAUSE_SECONDS = (0.001, 0.002)
# A repair makes several requests per limit; looking more often would only load the ledger.
_LATCHED_PAUSE_SECONDS = 0.03


class Cause(Enum):
    """The reason for which a call took nothing, or nothing that is known."""

    FULL = auto()
    UNKNOWN = auto()
    GONE = auto()  # the grant has ended meanwhile
    AWAY = auto()


class Refusal(NamedTuple):
    """The first call that was not granted; leases taken before it stay recorded for the grant."""

    call: Call
    cause: Cause


@lru_cache(maxsize=256)
def calls_of(holdings: tuple[Holding, ...], registered: registry.Registered) -> tuple[Call, ...]:
    """Return the calls that occupy `holdings`, in canonical order."""
    machine = registered.machine or ""
    scopes = registered.scopes
    placed = [(cell.resource, scopes[cell.resource], cell.number, amount) for cell, amount in holdings]
    made: list[Call] = []
    for group in calls(naming.units(placed, naming.cells_counted(registered.stocks))):
        names = tuple(name for unit in group for name in naming.names_of(unit, machine))
        made.append(Call(names, group[0].weight, fleet=any(unit.scope is Scope.FLEET for unit in group)))
    return tuple(made)


class Acquirer:
    """Takes leases for the grants of one process.

    Attributes:
        away_since: Boot-clock time at which the server last failed to answer, in seconds; `None` once it answers.
    """

    def __init__(self, ledger: store.Ledger, gateway: Gateway, releaser: Releaser, announcer: events.Announcer) -> None:
        self.away_since: float | None = None
        self._ledger = ledger
        self._gateway = gateway
        self._releaser = releaser
        self._announcer = announcer

    async def occupy(self, grant: str, wanted: Iterable[Call], there: Collection[LeaseRow]) -> Refusal | None:
        """Occupy the limits of a grant.

        Args:
            grant: Its id.
            wanted: All calls that it needs, in canonical order.
            there: Rows of leases that it has already.

        Returns:
            `None` when everything is occupied.

        Raises:
            LimitMissing, ServerRefused: nothing is occupied beyond the leases that the rows record.
        """
        # An intent proves nothing: its call may have been lost on the way.
        made = {row.call for row in there if row.state in (LeaseState.LEASE, LeaseState.GHOST)}
        for call in wanted:
            if call not in made:
                cause = await self._make(grant, call)
                if cause is not None:
                    return Refusal(call, cause)
        return None

    def go_without(self, grant: str) -> None:
        """Let a grant go on although the server does not count all of it; slots of a lost call are given back."""
        self._ledger.transact(lambda tx: leases.go_without(tx, grant))
        self._releaser.sweep()

    async def _make(self, grant: str, call: Call) -> Cause | None:
        if self.away_since is not None and clock.boot_clock() - self.away_since < _AWAY_SECONDS:
            return Cause.AWAY
        holder = await self._intend(grant, call)
        if holder is None:
            return Cause.GONE
        failpoints.reached(failpoints.Point.INTENT_WRITTEN)
        self._releaser.in_flight.add(holder)
        late = partial(self._landed, holder, call)
        try:
            taken = await self._gateway.occupy(call.names, call.weight, holder, leases.LEASE_SECONDS, late=late)
        except Exception as error:
            # A cancelled call does not come here: it stays in flight until `late` tells its outcome.
            self._releaser.in_flight.discard(holder)
            match error:
                case outcome.Busy() | outcome.TooLarge():
                    cause, self.away_since = Cause.FULL, None
                case outcome.UnknownOutcome():
                    cause, self.away_since = Cause.UNKNOWN, clock.boot_clock()
                case ServerUnreachable():
                    cause, self.away_since = Cause.AWAY, clock.boot_clock()
                case _:
                    cause = None
            # The slots of a lost call may be held: its intent is the only trace by which they can be found.
            if cause is not Cause.UNKNOWN:
                self._forget(holder)
            if cause is None:
                raise
            return cause
        self._releaser.in_flight.discard(holder)
        self.away_since = None
        return None if self._record(holder, call, taken) else Cause.GONE

    async def _intend(self, grant: str, call: Call) -> UUID | None:
        await self._wait_for_own_releases(call.names)
        while True:
            latched, holder = self._ledger.transact(lambda tx: _intend(tx, grant, call, clock.boot_clock()))
            if not latched:
                return holder
            await asyncio.sleep(clock.around(_LATCHED_PAUSE_SECONDS))

    def _landed(self, holder: UUID, call: Call, answer: outcome.OccupiedLease | BaseException) -> None:
        """Record an answer that came after its caller had been cancelled."""
        self._releaser.in_flight.discard(holder)
        if isinstance(answer, outcome.OccupiedLease):
            self._record(holder, call, answer)
        elif not isinstance(answer, outcome.UnknownOutcome):
            self._forget(holder)
        self._releaser.sweep()

    def _record(self, holder: UUID, call: Call, taken: outcome.OccupiedLease) -> bool:
        failpoints.reached(failpoints.Point.LEASE_TAKEN)
        deadline = clock.boot_clock() + taken.seconds
        ids = {limit.name: str(limit.id) for limit in taken.limits}
        ids |= {f"@{parts[0]}": str(limit.id) for limit in taken.mirrors if (parts := naming.split_mirror(limit.name))}

        def write(tx: transaction.Transaction) -> tuple[bool, bool]:
            anew = changed.note_ids(tx, ids)
            return leases.write_lease(tx, holder, taken.id, deadline), anew

        wanted, anew = self._ledger.transact(write)
        if anew:
            self._releaser.sweep()
        failpoints.reached(failpoints.Point.LEASE_WRITTEN)
        self._announcer.acquired(taken, call.weight)
        return wanted

    def _forget(self, holder: UUID) -> None:
        self._ledger.transact(lambda tx: leases.forget(tx, holder, clock.boot_clock()), frees=True)

    async def _wait_for_own_releases(self, names: tuple[str, ...]) -> None:
        # This machine's ledger has freed the cells already, its release is on the way to the server: asking before it
        # arrives would be refused by ourselves.
        until = clock.boot_clock() + _PATIENCE_SECONDS
        while (now := clock.boot_clock()) < until and self._ledger.read(
            lambda tx, at=now: leases.in_the_way(tx, names, at)
        ):
            await asyncio.sleep(clock.between(*_PAUSE_SECONDS))


def _intend(tx: transaction.Transaction, grant: str, call: Call, now: float) -> tuple[bool, UUID | None]:
    # A lease taken while a count is repaired would look like slots that nobody holds.
    if leases.are_latched(tx, call.names, now):
        return True, None
    return False, leases.write_intent(tx, grant, call, now)

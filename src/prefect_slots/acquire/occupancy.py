"""What the ledger granted, occupied on the server: in canonical order, renewed while held, given back once.

Everything is tried without waiting; the first refusal gives all of it back. Intent is written before each call and the
lease after it, so whoever finds the rows of a dead process can give back what it took. A lost answer is looked
up by our holder id on the mirror limit, after it has settled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

from prefect_slots.errors import LimitMissing, ServerUnreachable, SlotsError
from prefect_slots.ledger import leases
from prefect_slots.ledger.leases import LeaseRow, LeaseState
from prefect_slots.ledger.owner import boot_clock
from prefect_slots.ledger.points import Point, reached
from prefect_slots.ledger.registry import Registered
from prefect_slots.ledger.store import Ledger
from prefect_slots.limits import jitter, naming
from prefect_slots.limits.outcome import Busy, OccupiedLease, TooLarge, UnknownOutcome
from prefect_slots.limits.renewal import Renewal
from prefect_slots.model.book import Holding
from prefect_slots.model.limit import LimitUnit
from prefect_slots.scheduling.ordering import calls

if TYPE_CHECKING:
    from prefect_slots.limits.gateway import Gateway

LEASE_SECONDS: Final = 300.0
SETTLED_SECONDS: Final = 15.0
LAPSING_SECONDS: Final = 20.0
_OWN_RELEASE_SECONDS: Final = 1.0
_log = logging.getLogger("prefect_slots")


class Occupancy:
    """The server's side of one process's grants.

    Attributes:
        has_answered: Whether the server has ever granted or refused this process anything.
    """

    def __init__(self, ledger: Ledger, gateway: Gateway) -> None:
        self.has_answered = False
        self._ledger = ledger
        self._gateway = gateway
        self._giving_back: dict[UUID, asyncio.Task[None]] = {}
        self._in_flight: set[UUID] = set()
        self._holders: dict[UUID, UUID] = {}
        self._renewal = Renewal(gateway.renew, self, lease_seconds=LEASE_SECONDS, now=boot_clock)
        self._renewing = asyncio.get_running_loop().create_task(self._renewal.run())

    async def occupy(self, grant: str, holdings: Sequence[Holding], registered: Registered) -> str | None:
        """Occupy on the server what the ledger granted.

        Returns:
            `None` when everything is occupied, or the limit that the server refused; what was taken for `grant` then
            stays recorded until the ledger takes the grant back.

        Raises:
            LimitMissing, ServerUnreachable, ServerRefused: nothing is occupied beyond what the rows tell.
        """
        machine = registered.machine or ""
        scopes = registered.scopes
        placed = [(cell.resource, scopes[cell.resource], cell.number, amount) for cell, amount in holdings]
        for call in calls(naming.units(placed, naming.cells_counted(registered.stocks))):
            names = tuple(name for unit in call for name in naming.names_of(unit, machine))
            if await self._occupy_call(grant, names, call) is not None:
                return names[0]
        return None

    async def _occupy_call(self, grant: str, names: tuple[str, ...], call: tuple[LimitUnit, ...]) -> str | None:
        await self._until_own_releases_are_done(names)
        weight = call[0].weight
        holder = self._ledger.transact(lambda tx: leases.write_intent(tx, grant, names, weight, boot_clock()))
        if holder is None:
            return names[0]
        reached(Point.INTENT_WRITTEN)
        self._in_flight.add(holder)
        landed = False
        try:
            taken = await self._gateway.occupy(
                names, weight, holder, LEASE_SECONDS, late=lambda outcome: self._landed(holder, outcome)
            )
            landed = True
            self.has_answered = True
        except (Busy, TooLarge) as refusal:
            landed = True
            self.has_answered = True
            self._ledger.transact(lambda tx: leases.forget(tx, holder))
            return refusal.names[0]
        except UnknownOutcome:
            landed = True
            return names[0]
        except Exception:
            landed = True
            self._ledger.transact(lambda tx: leases.forget(tx, holder))
            raise
        finally:
            if landed:
                self._in_flight.discard(holder)
        return None if self._record(holder, taken) else names[0]

    def _landed(self, holder: UUID, outcome: OccupiedLease | BaseException) -> None:
        """Take note of an answer that came after its caller had been cancelled."""
        self._in_flight.discard(holder)
        if isinstance(outcome, OccupiedLease):
            self._record(holder, outcome)
        elif not isinstance(outcome, UnknownOutcome):
            self._ledger.transact(lambda tx: leases.forget(tx, holder))
        self.sweep()

    def _record(self, holder: UUID, taken: OccupiedLease) -> bool:
        reached(Point.LEASE_TAKEN)
        deadline = boot_clock() + taken.seconds
        wanted = self._ledger.transact(lambda tx: leases.write_lease(tx, holder, taken.id, deadline))
        reached(Point.LEASE_WRITTEN)
        if wanted:
            self._holders[taken.id] = holder
            self._renewal.keep(taken.id, deadline)
        return wanted

    async def _until_own_releases_are_done(self, names: tuple[str, ...]) -> None:
        # This machine's ledger has freed the cells already, its release is on the way to the server: asking before it
        # arrives would be refused by ourselves.
        until = boot_clock() + _OWN_RELEASE_SECONDS
        while boot_clock() < until and self._ledger.read(lambda tx: leases.being_released(tx, names)):
            await asyncio.sleep(jitter.between(0.003, 0.007))

    # Giving back

    def sweep(self) -> None:
        """Start giving back whatever is ours to release and not on its way."""
        for row in self._ledger.read(lambda tx: leases.of_owner(tx, tx.actor, LeaseState.RELEASING)):
            if row.lease_id is not None:
                self._renewal.forget(row.lease_id)
                self._holders.pop(row.lease_id, None)
            if row.id not in self._giving_back and row.id not in self._in_flight:
                task = asyncio.get_running_loop().create_task(self._give_back(row))
                self._giving_back[row.id] = task
                task.add_done_callback(lambda _, holder=row.id: self._giving_back.pop(holder, None))

    async def _give_back(self, row: LeaseRow) -> None:
        pause = 0.1
        while not self._left_to_the_server(row):
            try:
                if row.lease_id is None:
                    await self._settle(row)
                else:
                    await self._gateway.release(row.lease_id)
                    reached(Point.LEASE_RELEASED)
                break
            except UnknownOutcome:
                await self._settle(row)
                break
            except ServerUnreachable:
                await asyncio.sleep(jitter.around(pause))
                pause = min(pause * 2, 5.0)
            except SlotsError as refused:
                _log.warning("slots of %s stay taken until their lease lapses: %s", ", ".join(row.names), refused)
                break
        self._ledger.transact(lambda tx: leases.forget(tx, row.id))

    async def _settle(self, row: LeaseRow) -> None:
        """Find out what became of a call whose answer was lost, and give back what it took.

        Before a call has settled it may still be applied; a release repeated before that could subtract twice.
        """
        sent_at = row.sent_at if row.lease_id is None else boot_clock()
        release_is_out = row.lease_id is not None
        answered: float | None = None
        pause = 0.2
        while not self._left_to_the_server(row):
            try:
                listed = await self._gateway.find(row.names[0], row.id)
                answered = answered or boot_clock()
                settled = boot_clock() - max(answered, sent_at) >= SETTLED_SECONDS
                if listed and (settled or not release_is_out):
                    answered, sent_at, release_is_out = None, boot_clock(), True
                    await self._gateway.release_by_holder(row.names, row.id)
                    return
                if settled:
                    return
            except LimitMissing:
                return  # with the mirror went everything it could tell
            except (ServerUnreachable, UnknownOutcome):
                pass
            await asyncio.sleep(jitter.around(pause))
            pause = min(pause * 1.5, 3.0)

    def _left_to_the_server(self, row: LeaseRow) -> bool:
        # A release that meets the server's repossessor at a lapsed lease would subtract a second time.
        deadline = row.deadline if row.deadline is not None else row.sent_at + LEASE_SECONDS
        return boot_clock() > deadline - LAPSING_SECONDS

    async def drain(self, seconds: float) -> None:
        """Give back what is ours to release, waiting `seconds` at most; the rest stays recorded."""
        self.sweep()
        pending = list(self._giving_back.values())
        if pending:
            await asyncio.wait(pending, timeout=seconds)

    async def close(self) -> None:
        """Stop renewing and close the connection to the server."""
        tasks = [self._renewing, *self._giving_back.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._gateway.close()

    # Renewal tells us (LeaseKeeper)

    def renewed(self, lease_id: UUID, deadline: float) -> None:
        """Record the new deadline."""
        holder = self._holders.get(lease_id)
        if holder is not None:
            self._ledger.transact(lambda tx: leases.extend(tx, holder, deadline))

    def lost(self, lease_id: UUID) -> None:
        """The server does not list the lease any more: the task goes on, and others may use its slots."""
        self._say(lease_id, "the server no longer lists the lease of %s; the task goes on")

    def lapsed(self, lease_id: UUID) -> None:
        """The lease ran out before it could be renewed."""
        self._say(lease_id, "the lease of %s ran out before the server could be asked; the task goes on")

    def failed(self, lease_id: UUID, error: Exception) -> None:
        """One attempt failed; another follows."""
        _log.debug("renewing lease %s: %s", lease_id, error)

    def _say(self, lease_id: UUID, message: str) -> None:
        holder = self._holders.pop(lease_id, None)
        if holder is not None:
            row = self._ledger.read(lambda tx: leases.get(tx, holder))
            _log.warning(message, ", ".join(row.names) if row else lease_id)

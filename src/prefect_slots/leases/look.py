"""Looks at limits that this machine holds: a person may lower, switch off, delete or rename one at any time.

A hand-over asks the server nothing, so the ledger must know of such a change soon.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from prefect_slots.errors import SlotsError
from prefect_slots.leases import foreign
from prefect_slots.ledger import changed, leases, registry, store, transaction
from prefect_slots.ledger.leases import LeaseState
from prefect_slots.limits import naming
from prefect_slots.limits.gateway import Gateway
from prefect_slots.limits.outcome import ExistingLimit

# Limits read at each beat of a second, in turn: while requests wait, a hand-over may come at any moment. More would be
# felt by a server that serves many machines.
_WHILE_WAITED_FOR = 4
_log = logging.getLogger("prefect_slots")


class Look:
    """The leader's looks at held limits.

    Attributes:
        restore: Makes missing limits again where that is allowed; returns whether they are there now.
        sweep: Starts releasing the leases that are this process's to release.
    """

    def __init__(self, ledger: store.Ledger, gateway: Gateway) -> None:
        self.restore: Callable[[], Awaitable[bool]] = _not_here
        self.sweep: Callable[[], None] = lambda: None
        self._ledger = ledger
        self._gateway = gateway
        self._next = 0
        self._missed: set[str] = set()

    async def look(self) -> None:
        """Read some of the held limits, and record what was changed about them.

        Raises:
            ServerUnreachable: if the server does not answer.
        """
        names, count = self._ledger.read(_held)
        first = self._next % len(names) if names else 0
        turn = (names[first:] + names[:first])[:count]
        self._next = first + len(turn)
        read = await asyncio.gather(*map(self._gateway.read, turn))
        there = {name: found for name, found in zip(turn, read, strict=True) if found is not None}
        ids = {name: str(found.id) for name, found in there.items() if found.id is not None}
        if self._ledger.transact(lambda tx: changed.note_ids(tx, ids)):
            self.sweep()
        registered = self._ledger.read(registry.registered)
        lowered = {name for name, found in there.items() if _is_lowered(registered, name, found)}
        if lowered:
            resources = foreign.resources_behind(registered, lowered)
            await foreign.note_foreign_use(self._ledger, self._gateway, resources, shared=resources)
        await self._miss(set(turn) - set(there))
        self._missed -= set(there)

    async def _miss(self, gone: set[str]) -> None:
        fresh = gone - self._missed
        if not fresh:
            return
        self._missed |= fresh
        words = ", ".join(sorted(fresh))
        try:
            restored = await self.restore()
        except SlotsError as failed:
            self._missed -= fresh
            _log.warning("limit %s was deleted or renamed on the server, and cannot be made again: %s", words, failed)
            return
        done = "it is made again" if restored else "a worker or `prefect-slots register` makes it again"
        _log.warning("limit %s was deleted or renamed on the server; %s", words, done)


async def _not_here() -> bool:
    return False


def _held(tx: transaction.Transaction) -> tuple[list[str], int]:
    """Return the limits on which this machine has leases, and the number of them to read now."""
    rows = leases.in_states(tx, LeaseState.LEASE, LeaseState.GHOST)
    names = sorted({name for row in rows for name in row.names})
    return names, _WHILE_WAITED_FOR if tx.waits() else 1


def _is_lowered(registered: registry.Registered, name: str, found: ExistingLimit) -> bool:
    specs = naming.specs(registered.machine, registered.stocks) if registered.machine else ()
    return any(spec.name == name and found.room < spec.limit for spec in specs)

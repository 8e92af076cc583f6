"""Renewal of the leases of all grants of this machine, and new leases for those that were lost.

A holder may be stopped, or busy in code that lets no other thread run; another process renews its leases all the same.
"""

import asyncio
import logging
from collections.abc import Callable
from uuid import UUID

from prefect_slots.errors import SlotsError
from prefect_slots.leases.acquire import Acquirer, Cause, calls_of
from prefect_slots.ledger import leases, registry, store, transaction
from prefect_slots.limits.gateway import Gateway
from prefect_slots.system import clock

# Two further attempts fit into the rest of a lease's life.
_DUE_AFTER = leases.LEASE_SECONDS / 3
# Rare enough for a server that is restarting, and often enough within the 200 s that are left.
_RETRY_SECONDS = 5.0
# A gateway keeps four connections; more requests at once would only queue before them, ahead of new grants.
_AT_ONCE = 4
_log = logging.getLogger("prefect_slots")


class Renewal:
    """Renews due leases and backs grants that lack one; driven by the leader.

    Attributes:
        forgotten: Called when the server no longer lists a lease that should be alive.
    """

    def __init__(self, ledger: store.Ledger, gateway: Gateway, acquirer: Acquirer) -> None:
        self.forgotten: Callable[[], None] = lambda: None
        self._ledger = ledger
        self._gateway = gateway
        self._acquirer = acquirer
        self._not_before: dict[UUID, float] = {}
        self._few = asyncio.Semaphore(_AT_ONCE)

    async def renew(self) -> None:
        """Renew every lease a third of whose life has passed."""
        now = clock.boot_clock()
        rows = self._ledger.read(lambda tx: leases.in_states(tx, leases.LeaseState.LEASE))
        self._not_before = {row.id: self._not_before[row.id] for row in rows if row.id in self._not_before}
        due = [
            row
            for row in rows
            if row.deadline is not None
            and row.deadline - now < leases.LEASE_SECONDS - _DUE_AFTER
            and self._not_before.get(row.id, 0.0) <= now
        ]
        await asyncio.gather(*map(self._renew, due))

    async def _renew(self, row: leases.LeaseRow) -> None:
        async with self._few:
            asked = clock.boot_clock()
            if row.deadline is None or row.lease_id is None or asked >= row.deadline:
                # The server's own service takes a lapsed lease back, and a renewal would race with it.
                self._ledger.transact(lambda tx: leases.lapse(tx, row.id))
                _log.warning("the lease of %s ran out while the server was away; the task goes on", _words(row))
                return
            try:
                listed = await self._gateway.renew(row.lease_id, leases.LEASE_SECONDS)
            except SlotsError as failed:
                self._not_before[row.id] = clock.boot_clock() + _RETRY_SECONDS
                _log.debug("renewing %s: %s", _words(row), failed)
                return
        if listed:
            self._ledger.transact(lambda tx: leases.extend(tx, row.id, asked + leases.LEASE_SECONDS))
        else:
            self._not_before[row.id] = clock.boot_clock() + _RETRY_SECONDS
            _log.info("the server no longer lists the lease of %s", _words(row))
            self.forgotten()

    async def back(self) -> None:
        """Take leases for grants that go on without; where there is no room yet, a later call tries again."""
        for held in self._ledger.read(leases.unbacked):
            wanted, there = self._ledger.read(lambda tx, grant=held: (_needs(tx, grant), leases.of_grant(tx, grant)))
            if any(row.state is leases.LeaseState.INTENT for row in there):
                continue  # its owner asks for it at this moment
            refusal = await self._acquirer.occupy(held, wanted, there)
            if refusal is None:
                self._ledger.transact(lambda tx, grant=held: leases.note_backed(tx, grant))
            elif refusal.cause is Cause.UNKNOWN:
                # Otherwise every further attempt could take another slot beside that of the lost call.
                self._acquirer.go_without(held)
            elif refusal.cause is Cause.AWAY:
                return


def _needs(tx: registry.Transaction, grant: str) -> tuple[leases.Call, ...]:
    if tx.state(grant) is not transaction.TicketState.HELD:
        return ()
    return calls_of(tx.grant(grant).holdings, registry.registered(tx))


def _words(row: leases.LeaseRow) -> str:
    return ", ".join(row.names)

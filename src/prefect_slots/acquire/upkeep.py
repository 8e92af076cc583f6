"""Upkeep of the ledger by this process: dead owners are reaped, and tickets ended that could not be ended at once.

There is no daemon: each process does it at its start, at its end, and while any of its tickets is unfinished.
"""

from __future__ import annotations

import asyncio
import logging

from prefect_slots.acquire.tickets import POLL_SECONDS, Tickets
from prefect_slots.errors import LedgerUnreadable
from prefect_slots.ledger.owner import bury
from prefect_slots.ledger.store import Ledger
from prefect_slots.system import clock

_log = logging.getLogger("prefect_slots")


class Upkeep:
    """Looks for dead owners, and for tickets of this process to end, at once and again and again."""

    def __init__(self, ledger: Ledger, tickets: Tickets) -> None:
        self._ledger = ledger
        self._tickets = tickets
        self._task: asyncio.Task[None] | None = None

    def tend(self) -> None:
        """Look once; a ledger that is locked now is tried again later."""
        try:
            self._reap()
            self._tickets.leave_again()
        except LedgerUnreadable as error:
            _log.debug("trying again: %s", error)

    def _reap(self) -> None:
        for owner in self._ledger.read(lambda tx: tx.dead_owners()):
            _log.info("reaping process %s, which died", owner)
            if self._ledger.transact(lambda tx, dead=owner: tx.drop_owner(dead), frees=True):
                bury(self._ledger.folder, owner)
        self._tickets.sweep()

    def start(self) -> None:
        """Look again and again while any ticket is unfinished."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._while_unfinished())

    async def _while_unfinished(self) -> None:
        while self._tickets.are_unfinished:
            await _pause()
            self.tend()

    async def run(self) -> None:
        """Look again and again until cancelled, for a process that waits for nothing itself."""
        while True:
            self.tend()
            await _pause()

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()


async def _pause() -> None:
    # Uneven, so that many waiting processes do not meet at the ledger.
    await asyncio.sleep(clock.between(POLL_SECONDS / 2, POLL_SECONDS))

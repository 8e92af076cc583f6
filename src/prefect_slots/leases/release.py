"""Release of leases: each is given back once, even if the answer is lost.

Two releases of one lease subtract twice, so a release whose answer was lost is not repeated before it has settled. A
lease whose id was lost with its answer is looked up by our holder id on the mirror limit.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

from prefect_slots.errors import LimitMissing, ServerUnreachable, SlotsError
from prefect_slots.ledger import changed, failpoints, leases, store
from prefect_slots.limits import events, outcome
from prefect_slots.limits.gateway import Gateway
from prefect_slots.system import clock

# A request that is still on its way after its answer was lost arrives within this time, or never.
SETTLED_SECONDS = 15.0
# Shorter than a repair takes, so that a release waits for little more than the repair itself.
_LATCHED_PAUSE_SECONDS = 0.02
# A limit is switched off by a person, for minutes or hours.
_OFF_PAUSE_SECONDS = 0.5
_log = logging.getLogger("prefect_slots")


class Releaser:
    """Releases the leases that are this process's to release.

    Attributes:
        in_flight: Holder ids of this process's increments without an answer yet: they must not be settled.
    """

    def __init__(self, ledger: store.Ledger, gateway: Gateway, announcer: events.Announcer) -> None:
        self.in_flight: set[UUID] = set()
        self._ledger = ledger
        self._gateway = gateway
        self._announcer = announcer
        self._under_way: dict[UUID, asyncio.Task[None]] = {}

    def sweep(self) -> None:
        """Start releasing each such lease that is not on its way already."""
        for row in self._ledger.read(leases.to_release):
            if row.id not in self._under_way and row.id not in self.in_flight:
                task = asyncio.get_running_loop().create_task(self._give_back(row))
                self._under_way[row.id] = task
                task.add_done_callback(lambda _, holder=row.id: self._under_way.pop(holder, None))

    async def _give_back(self, row: leases.LeaseRow) -> None:
        if await self._released(row):
            self._ledger.transact(lambda tx: leases.forget(tx, row.id, clock.boot_clock()), frees=True)
        else:
            self._ledger.transact(lambda tx: leases.lapse(tx, row.id), frees=True)

    async def _released(self, row: leases.LeaseRow) -> bool:
        """Release one lease; return False if it is lapsing and left to the server's own service."""
        pause = 0.1
        complained = False
        while not _is_lapsing(row):
            try:
                if row.lease_id is None:
                    return await self._settled(row)
                if self._ledger.read(lambda tx, names=row.names: leases.are_latched(tx, names, clock.boot_clock())):
                    # A release while the count is repaired would be subtracted twice.
                    await asyncio.sleep(clock.around(_LATCHED_PAUSE_SECONDS))
                    continue
                if self._ledger.read(lambda tx, names=row.names: changed.are_off(tx, names)):
                    # A limit that is switched off would count the slots for ever after.
                    row = await self._kept(row)
                    await asyncio.sleep(clock.around(_OFF_PAUSE_SECONDS))
                    continue
                await self._gateway.release(row.lease_id)
                failpoints.reached(failpoints.Point.LEASE_RELEASED)
                self._announcer.released(row.lease_id, row.names, row.call.weight)
                return True
            except outcome.UnknownOutcome:
                return await self._settled(row)
            except ServerUnreachable:
                pass
            except SlotsError as refused:
                if not complained:
                    _log.warning("slots of %s are not taken back yet: %s", ", ".join(row.names), refused)
                complained = True
                # Prefect refuses a release on a limit of 0, by which it divides.
                with suppress(SlotsError):
                    row = await self._kept(row)
            await asyncio.sleep(clock.around(pause))
            pause = min(pause * 2, 5.0)
        return False

    async def _kept(self, row: leases.LeaseRow) -> leases.LeaseRow:
        """Return a row whose release must wait, with its lease renewed when it is due."""
        now = clock.boot_clock()
        if row.lease_id is None or row.deadline is None or row.deadline - now > leases.LEASE_SECONDS / 2:
            return row
        if not await self._gateway.renew(row.lease_id, leases.LEASE_SECONDS):
            return row
        row = replace(row, deadline=now + leases.LEASE_SECONDS)
        self._ledger.transact(lambda tx: leases.extend_releasing(tx, row.id, now + leases.LEASE_SECONDS))
        return row

    async def _settled(self, row: leases.LeaseRow) -> bool:
        """Settle a call whose answer was lost, and give back its slots.

        Before a call has settled it may still be applied; a release repeated before that could subtract twice.
        """
        sent_at = row.sent_at if row.lease_id is None else clock.boot_clock()
        release_is_out = row.lease_id is not None
        answered = row.answered
        pause = 0.2
        while not _is_lapsing(row):
            try:
                listed = await self._gateway.find(row.names[0], row.id)
                if answered is None:
                    # Written down, so that a process that takes over does not wait as long again.
                    answered = clock.boot_clock()
                    self._note_answered(row, answered)
                settled = clock.boot_clock() - max(answered, sent_at) >= SETTLED_SECONDS
                if listed and (settled or not release_is_out):
                    answered, sent_at, release_is_out = None, clock.boot_clock(), True
                    self._note_answered(row, None)
                    await self._gateway.release_by_holder(row.names, row.id)
                    self._announcer.released(None, row.names, row.call.weight)
                    return True
                if settled:
                    return True
            except LimitMissing:
                return True  # without the mirror nothing can be looked up
            except SlotsError as unanswered:
                _log.debug("settling %s: %s", ", ".join(row.names), unanswered)
            await asyncio.sleep(clock.around(pause))
            pause = min(pause * 1.5, 3.0)
        return False

    def _note_answered(self, row: leases.LeaseRow, now: float | None) -> None:
        self._ledger.transact(lambda tx: leases.note_answered(tx, row.id, now), frees=True)

    async def drain(self, seconds: float) -> None:
        """Release all that can be released within `seconds`; the rest stays recorded."""
        self.sweep()
        pending = list(self._under_way.values())
        if pending:
            await asyncio.wait(pending, timeout=seconds)

    async def close(self) -> None:
        """Stop; leases that are not released stay recorded for the next process of this machine."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_lapsing(row: leases.LeaseRow) -> bool:
    # A release that meets the server's own service at a lapsed lease would subtract a second time.
    deadline = row.deadline if row.deadline is not None else row.sent_at + leases.LEASE_SECONDS
    return clock.boot_clock() > deadline - leases.LAPSING_SECONDS

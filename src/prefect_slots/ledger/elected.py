"""The elected loop: jobs that one process does for all of its machine.

Every process that takes part runs the loop and offers itself at each beat. The one that has the role starts the jobs;
when it dies or is stopped its role goes stale and another process takes it. A slow job delays no other job.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import NoReturn

from prefect_slots.errors import LedgerUnreadable, SlotsError
from prefect_slots.ledger import election, store
from prefect_slots.system import clock

Job = Callable[[], Awaitable[object]]
_log = logging.getLogger("prefect_slots")


class ElectedLoop:
    """This process's part in one role.

    Args:
        ledger: The machine's ledger.
        role: Name of the role.
        jobs: Called at each beat while elected; returns the jobs to start, by name. A job that still runs is not
            started a second time, but once more at its end if a nudge asked for it.
        beat_seconds: Longest time between beats while elected.
        idle_seconds: Longest time between beats otherwise.
        offers: Returns whether this process has any jobs to offer itself for.
        failed: Called with each error of a job that is one of this package's.
    """

    def __init__(
        self,
        ledger: store.Ledger,
        role: str,
        jobs: Callable[[], Mapping[str, Job]],
        *,
        beat_seconds: float = 1.0,
        idle_seconds: float = election.STALE_SECONDS,
        offers: Callable[[], bool] = lambda: True,
        failed: Callable[[SlotsError], None] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._role = role
        self._jobs = jobs
        self._beat_seconds = beat_seconds
        self._idle_seconds = idle_seconds
        self._offers = offers
        self._failed = failed
        self._nudged = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._wanted_again: set[str] = set()

    def nudge(self) -> None:
        """Bring the next beat forward to this moment."""
        self._nudged.set()

    async def run(self) -> NoReturn:
        """Beat until cancelled, then cancel the jobs."""
        nudged = False
        try:
            while True:
                seconds = self._beat_seconds if self._beat(nudged) else self._idle_seconds
                # Not `wait_for`, which in Python 3.11 loses a cancellation that comes with a nudge: the process would
                # not end. The random part keeps many processes from beating in step.
                with suppress(TimeoutError):
                    async with asyncio.timeout(clock.between(0.7, 1.0) * seconds):
                        await self._nudged.wait()
                nudged = self._nudged.is_set()
                self._nudged.clear()
        finally:
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def do(self, job: Job) -> None:
        """Await one job; its errors are logged and survived."""
        try:
            await job()
        except SlotsError as error:
            self._failed(error)
            _log.debug("%s: %s", self._role, error)
        except Exception:
            # The loop goes on: one broken job must not end the others, and its next run may go better.
            _log.exception("a job of the machine's %s failed", self._role)

    def _beat(self, nudged: bool) -> bool:
        try:
            if not self._offers() or not self._is_elected():
                return False
            for name, job in self._jobs().items():
                if name not in self._running:
                    self._running[name] = asyncio.get_running_loop().create_task(self.do(job))
                    self._running[name].add_done_callback(lambda _, ended=name: self._ended(ended))
                elif nudged:
                    self._wanted_again.add(name)
        except LedgerUnreadable as error:
            _log.debug("%s: trying again: %s", self._role, error)
            return False
        return True

    def _is_elected(self) -> bool:
        # A read first: processes without the role must not take turns at the one write lock every few seconds.
        now = clock.boot_clock()
        if self._ledger.read(lambda tx: election.held_by_other(tx, self._role, now)):
            return False
        return self._ledger.transact(lambda tx: election.take(tx, self._role, now))

    def _ended(self, name: str) -> None:
        self._running.pop(name, None)
        if name in self._wanted_again:
            self._wanted_again.discard(name)
            self.nudge()

"""A look at the GPUs for one decision: a grant of GPU memory asks the driver, and not the last look of the monitor.

It is made before a request is put to the ledger and before cells come free for requests that wait, if a GPU was last
looked at more than a second ago. A driver that takes longer than 50 ms leaves the last known use, with its age.
"""

import asyncio
import concurrent.futures
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from prefect_slots.errors import LedgerUnreadable
from prefect_slots.ledger import queries, registry, store, transaction, usage
from prefect_slots.model import GPU_MEM
from prefect_slots.settings import Settings
from prefect_slots.system import threads

# A look of this age is believed. Programs take seconds to start and fill a GPU.
FRESH_SECONDS = 1.0
# A decision waits for a driver this long: nobody feels a task that starts so much later.
PATIENCE_SECONDS = 0.05
_Note = Callable[[transaction.Transaction], object]


class GpusNow:
    """The looks of this process for its decisions; used in the engine's thread."""

    def __init__(self, ledger: store.Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self.settings = settings
        self._registered = registry.Known()
        self._fresh_until = 0.0
        self._look: concurrent.futures.Future[_Note] | None = None

    async def before_request(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Look before a request for GPU memory, and wait for the answer that long."""
        if self._is_due():
            look = self._begin()
            # Not `wait_for`, which may lose a cancellation: the request of a caller that has left would be queued.
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await asyncio.wrap_future(look)
            self._record(look)

    def before_release(self) -> None:
        """Look before cells come free, if a request waits for GPU memory: the release decides on it."""
        # A look that cannot be written, on a full disk for example, must not keep anybody from giving back.
        with suppress(LedgerUnreadable):
            if self._is_due() and self._ledger.read(lambda tx: queries.is_waited_for(tx, GPU_MEM)):
                look = self._begin()
                concurrent.futures.wait((look,), PATIENCE_SECONDS)
                self._record(look)

    def _is_due(self) -> bool:
        if not self.settings.declarations.gpus.detect or time.monotonic() < self._fresh_until:
            return False
        looked_at = self._ledger.read(lambda tx: usage.oldest_look(tx, GPU_MEM))
        # Of GPUs that no driver tells of there is nothing to see.
        age = 0.0 if looked_at is None else abs(time.time() - looked_at)
        self._fresh_until = time.monotonic() + FRESH_SECONDS - age
        return age > FRESH_SECONDS

    def _begin(self) -> concurrent.futures.Future[_Note]:
        # One at a time: each further call into a driver that hangs would be a further thread that hangs.
        if self._look is None:
            # Imported where a look is made, which most processes never do, and not in the driver's 50 ms.
            from prefect_slots.detect.gpu import nvml
            from prefect_slots.usage.gpus import look_at_gpus, note_gpus

            with suppress(ImportError):
                nvml.load_nvml()
            keys = frozenset(cell.key for cell in self._ledger.read(self._registered).cells(GPU_MEM))

            def look() -> _Note:
                seen = look_at_gpus(keys, self.settings.detect_seconds)
                return partial(note_gpus, seen=seen, settings=self.settings, between=True)

            self._look = threads.call_in_thread(look, "prefect-slots cards now")
        return self._look

    def _record(self, look: concurrent.futures.Future[_Note]) -> None:
        """Record an answer that has come, once."""
        if look is self._look and look.done():
            self._look = None
            self._ledger.transact(look.result())

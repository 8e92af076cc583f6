"""Looks before a grant: nothing is granted on a number of foreign use that nobody has looked up lately.

A process looks before its first request for a resource, or finds in the ledger that another one has just done so. Later
requests for seats rely on the elected monitor, those for GPU memory ask the driver again. A driver or a server that
does not answer leaves the last known use, with its age.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from prefect_slots.ledger import election, queries, registry, store, transaction, usage
from prefect_slots.model import GPU_MEM, CellId, LicenseServer, RegisteredCell, Request, license_resource
from prefect_slots.observe.reason import ago
from prefect_slots.settings import Settings
from prefect_slots.system import clock
from prefect_slots.usage.gpus_now import PATIENCE_SECONDS, GpusNow

# Key in `meta` of the time of the last look at the GPUs, a Unix time.
LOOKED_AT = "cards_looked_at"
# A first request waits for a look this long even if its own time limit is shorter: a command that is tried for a second
# must not be granted a seat unseen. It is also the most for a driver, which takes milliseconds unless it hangs.
_LEAST_SECONDS = 2.0
# Another process's look at a license server is believed by a fresh process for so long. People take seats within
# seconds, and a server that is asked this often at most by a machine is not loaded by it.
_LATELY_SECONDS = 5.0
# Between two reads of the ledger while another process asks the server.
_PAUSE_SECONDS = 0.05
_log = logging.getLogger("prefect_slots")


class BeforeGrant:
    """The looks of this process before its requests.

    Args:
        ledger: The machine's ledger.
        settings: Settings of this process.
        servers: The tables that one question to a license server answers, by the name of the look that asks it.
        look: Makes the look of that name, or awaits the one that is under way.
        gpus_now: Looks at the GPUs for one decision.
    """

    def __init__(
        self,
        ledger: store.Ledger,
        settings: Settings,
        servers: Mapping[str, tuple[LicenseServer, ...]],
        look: Callable[[str], Awaitable[None]],
        gpus_now: GpusNow,
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._servers = servers
        self._look = look
        self._gpus_now = gpus_now
        self._met: set[str] = set()
        self._asked_at: dict[str, float] = {}
        self._warned: set[CellId] = set()

    async def look(self, request: Request) -> None:
        """Have everything looked at that a request could be granted, as far as that was not done lately."""
        wanted = set(request.wanted.resources)
        parent = request.parent
        if parent is not None and parent.ledger == self._ledger.id:
            # A request inside a grant of the same resource draws on that grant, or is refused.
            wanted -= self._ledger.read(lambda tx: queries.held_around(tx, parent.grant))
        if GPU_MEM in wanted and self._settings.declarations.gpus.detect:
            await self._look_at_gpus(first=not self._has_met("gpus"))
        asked = {
            name: (tables, names)
            for name, tables in self._servers.items()
            if (names := wanted & {license_resource(feature) for table in tables for feature, _ in table.features})
        }
        await asyncio.gather(*(self._ask(name, *each, request.timeout) for name, each in asked.items()))

    async def _look_at_gpus(self, *, first: bool) -> None:
        looked_at = float(self._ledger.read(lambda tx: tx.meta(LOOKED_AT)) or 0.0) if first else time.time()
        if abs(time.time() - looked_at) <= 3 * self._settings.use_seconds:
            # The first look of a process waits for imports too.
            await self._gpus_now.before_request(_LEAST_SECONDS if first else PATIENCE_SECONDS)
            return
        # Not `wait_for`, which may lose a cancellation: the request of a caller that has left would be queued.
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAST_SECONDS):
                await self._look("gpus")

    def _has_met(self, name: str) -> bool:
        """Return whether this process has had a request for that look before, and remember this one."""
        met = name in self._met
        self._met.add(name)
        return met

    async def _ask(
        self, name: str, tables: tuple[LicenseServer, ...], resources: set[str], timeout: float | None
    ) -> None:
        keeps = min(table.poll_seconds for table in tables)
        # Whatever came of it: after a failure the client of the server asks ever more rarely.
        if time.monotonic() - self._asked_at.get(name, -keeps) < keeps:
            return
        lately = keeps if self._has_met(name) else min(keeps, _LATELY_SECONDS)

        def is_known(tx: transaction.Transaction) -> bool:
            shown = usage.read_outside(tx)
            # A server that did not answer is not asked again by each process: each would wait for its whole limit.
            return all(
                (seen := shown.get(cell.id)) is not None
                and abs(tx.now - seen.asked_at) <= (keeps if seen.misses else lately)
                for cell in _cells(tx, resources)
            )

        # For its turn at the server, then for the answer.
        limit = 2 * max(table.timeout for table in tables)
        with suppress(TimeoutError):
            async with asyncio.timeout(limit if timeout is None else min(limit, max(timeout, _LEAST_SECONDS))):
                while not self._ledger.read(is_known):
                    await self._look(name)
                    if not self._ledger.read(lambda tx: election.held_by_other(tx, name, clock.boot_clock())):
                        self._asked_at[name] = time.monotonic()
                        break
                    # Another process asks this server at this moment, and its answer is ours too.
                    await asyncio.sleep(_PAUSE_SECONDS)
        self._ledger.read(lambda tx: self._warn(tx, resources))

    def _warn(self, tx: transaction.Transaction, resources: set[str]) -> None:
        """Warn once of each license that is decided on an old number."""
        shown, origins = usage.read_outside(tx), {each.name: each.origin for each in registry.registered(tx).resources}
        for cell in _cells(tx, resources):
            seen = shown.get(cell.id)
            if seen is None or not seen.why:
                self._warned.discard(cell.id)
            elif cell.id not in self._warned:
                self._warned.add(cell.id)
                told = f"told {ago(seen.seen_at)} ago" if seen.seen_at is not None else "has never told"
                _log.warning(
                    "%s: %s does not answer (%s); what it %s stands, %d in use by others",
                    *(cell.id.resource, origins[cell.id.resource], seen.why, told, seen.used or 0),
                )


def _cells(tx: transaction.Transaction, resources: set[str]) -> list[RegisteredCell]:
    registered = registry.registered(tx)
    return [cell for resource in resources for cell in registered.cells(resource)]

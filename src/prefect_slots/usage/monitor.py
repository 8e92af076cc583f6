"""The periodic look at what others use of this machine, by one of its processes: cards, licence seats, what grants use.

Every process that takes part offers itself; the ledger knows who looks, and another goes on when that one dies or is
stopped. Drivers and licence servers may hang: they are asked aside, and what was known last stands meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

from prefect_slots.errors import LedgerUnreadable, SlotsError
from prefect_slots.ledger import election, queries, registry, usage
from prefect_slots.ledger.store import Ledger
from prefect_slots.model.finding import Stale
from prefect_slots.model.requirement import Requirement
from prefect_slots.model.resource import GPU_MEM, MEM, license_resource
from prefect_slots.system import clock
from prefect_slots.system.processes import Users
from prefect_slots.system.threads import aside
from prefect_slots.usage.foreign import Fleet

if TYPE_CHECKING:
    from prefect_slots.ledger.transaction import Transaction
    from prefect_slots.model.declaration import LicenseServer
    from prefect_slots.settings import Settings
    from prefect_slots.usage.gpus import CardsNoted
    from prefect_slots.usage.licenses import SeatsSeen
    from prefect_slots.usage.memory import MemoryNoted
    from prefect_slots.usage.overuse import Excess

ROLE: Final = "watcher"
_LOOKED_AT: Final = "cards_looked_at"
_FIRST_LOOK_SECONDS: Final = 2.0
_log = logging.getLogger("prefect_slots")


class Reached(Protocol):
    """The Prefect server, as far as a look needs it."""

    async def fleet(self, resources: Collection[str]) -> Fleet:
        """Return what others hold of these fleet licences, and on which machines."""
        ...

    def tell_stale(self, stale: Stale) -> None:
        """Emit the event `prefect-slots.resource.stale`."""


class Watching:
    """This process's offer to look at what others use.

    Attributes:
        server: The Prefect server once this process uses one.
    """

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self.server: Reached | None = None
        self._ledger = ledger
        self._settings = settings
        self._servers = settings.declarations.license_servers
        self._users = Users()
        self._rests: dict[int, float] = {}
        self._advised: set[str] = set()
        self._first_look_due = settings.declarations.gpus.detect
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._due_at = 0.0

    async def round(self) -> None:
        """Look at everything once, and write down what was seen."""
        await asyncio.gather(*(self._do(job) for job in self._looks().values()))

    async def run(self) -> NoReturn:
        """Look again and again while no other process does."""
        try:
            while True:
                elected = False
                with suppress(LedgerUnreadable):
                    elected = bool(self._looks()) and self._is_elected()
                    if elected and time.monotonic() >= self._due_at:
                        self._due_at = time.monotonic() + self._settings.use_seconds
                        self._start_looks()
                beat = min(self._settings.use_seconds, 1.0) if elected else election.STALE_SECONDS
                await asyncio.sleep(clock.between(0.7, 1.0) * beat)
        finally:
            for task in self._jobs.values():
                task.cancel()

    async def before(self, requirement: Requirement) -> None:
        """Look at the cards before this process asks for some for the first time, if nobody has looked lately.

        Else the first task on a machine on which nobody else works would be given what a stranger uses.
        """
        if not self._first_look_due or GPU_MEM not in requirement.resources:
            return
        self._first_look_due = False
        looked_at = float(self._ledger.read(lambda tx: tx.meta(_LOOKED_AT)) or 0.0)
        if abs(time.time() - looked_at) > 3 * self._settings.use_seconds:
            # Not `wait_for`, which may lose a cancellation: the caller who has left would be enqueued.
            with suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_LOOK_SECONDS):
                    await self._do(self._cards)

    def _looks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        looks: dict[str, Callable[[], Awaitable[None]]] = {}
        if self._settings.declarations.gpus.detect:
            looks["cards"] = self._cards
        if self._servers:
            looks["seats"] = self._seats
        if self._ledger.read(lambda tx: usage.is_measured(tx, MEM)):
            looks["memory"] = self._memory
        return looks

    def _is_elected(self) -> bool:
        now = clock.boot_clock()
        if self._ledger.read(lambda tx: election.held_by_other(tx, ROLE, now)):
            return False
        return self._ledger.transact(lambda tx: election.take(tx, ROLE, now))

    def _start_looks(self) -> None:
        for name, job in self._looks().items():
            if name not in self._jobs:
                self._jobs[name] = asyncio.get_running_loop().create_task(self._do(job))
                self._jobs[name].add_done_callback(lambda _, ended=name: self._jobs.pop(ended, None))

    async def _do(self, job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        except SlotsError as failed:
            _log.debug("looking at what others use: %s", failed)
        except Exception:
            # What others use stands as it was known last; the next look may go better.
            _log.exception("looking at what others use failed")

    async def _cards(self) -> None:
        keys = frozenset(cell.key for cell in self._ledger.read(registry.registered).cells(GPU_MEM))
        if not keys:
            return
        now = time.time()
        note = await aside(partial(_look_at_cards, now, keys, self._settings), "prefect-slots cards")

        def write(tx: Transaction) -> CardsNoted:
            tx.set_meta(_LOOKED_AT, str(now))
            return note(tx)

        noted = self._ledger.transact(write)
        for stale in noted.stale:
            self._tell(stale)
        self._say(noted.excesses, noted.suggestions)

    async def _seats(self) -> None:
        note = await aside(partial(_ask_servers, self._servers), "prefect-slots seats")
        names = {license_resource(name) for table in self._servers for name, _ in table.features}
        fleet = Fleet(counted={}) if self.server is None else await self.server.fleet(names)
        after = self._settings.stale_after
        for stale in self._ledger.transact(lambda tx: note(tx, fleet, self._users, after)):
            self._tell(stale)

    async def _memory(self) -> None:
        parts = self._ledger.read(lambda tx: queries.holdings(tx, MEM))
        note = await aside(partial(_look_at_memory, parts, self._ledger.id, self._rests), "prefect-slots memory")
        noted = self._ledger.transact(note)
        self._say(noted.excesses, noted.suggestions)

    def _say(self, excesses: Iterable[Excess], suggestions: Iterable[str]) -> None:
        for excess in excesses:
            self._answer(excess)
        for words in suggestions:
            # A map of five hundred tasks need not say the same five hundred times.
            place = words.partition(" and used")[0].partition("(")[2]
            if place not in self._advised:
                self._advised.add(place)
                _log.info("%s", words)

    def _tell(self, stale: Stale) -> None:
        since = "never told" if stale.seen_at is None else f"told {time.time() - stale.seen_at:.0f} s ago"
        what = f"{stale.resource} ({stale.label})" if stale.label else stale.resource
        _log.warning(
            "what others use of %s is stale: %s, and nobody has answered %d times (%s); what was known last stands",
            *(what, since, stale.misses, stale.why),
        )
        if self.server is not None:
            self.server.tell_stale(stale)

    def _answer(self, excess: Excess) -> None:
        """Warn of a grant that uses more than it declared; end its process where that is asked for and allowed."""
        kills = self._settings.enforce == "kill"
        if not excess.warned:
            ends = kills and excess.process is not None
            more = " It is ended unless it uses less by the next look." if ends else ""
            _log.warning("%s.%s", excess, more)
        elif kills and excess.process is not None and excess.may_be_ended:
            from prefect_slots.usage.overuse import end

            # First, because whoever sees it end asks at once why.
            self._ledger.transact(lambda tx: _note_signal(tx, excess))
            signalled = end(*excess.process, by_force=excess.signals > 0)
            if signalled:
                _log.error('%s: %s, by enforce = "kill"', excess, signalled)


# What looks need is imported where they are made, not by every process that takes part, which mostly does not look.


def _look_at_cards(now: float, keys: frozenset[str], settings: Settings) -> Callable[[Transaction], CardsNoted]:
    from prefect_slots.detect.gpu.nvml import NVIDIA
    from prefect_slots.system.threads import LOOKOUT, Hanging, Look
    from prefect_slots.usage.gpu_holders import no_cards, read_cards
    from prefect_slots.usage.gpus import note_cards

    # A driver that hangs is one that does not answer: it is counted, and told in time.
    seen = LOOKOUT.send({NVIDIA: Look(partial(read_cards, now, keys), settings.detect_seconds)})[NVIDIA]
    return partial(note_cards, seen=no_cards(now, seen.words) if isinstance(seen, Hanging) else seen, settings=settings)


def _look_at_memory(
    parts: tuple[queries.Part, ...], ledger: str, rests: dict[int, float]
) -> Callable[[Transaction], MemoryNoted]:
    from prefect_slots.usage.memory import note_memory, read_memory

    return partial(note_memory, found=read_memory(parts, ledger, rests))


def _ask_servers(servers: tuple[LicenseServer, ...]) -> Callable[[Transaction, Fleet, Users, int], list[Stale]]:
    from prefect_slots.detect.licenses.client import DESK
    from prefect_slots.usage.licenses import ask_servers, note_seats

    seen: tuple[SeatsSeen, ...] = ask_servers(servers, dict(os.environ), DESK)
    return partial(note_seats, seen)


def _note_signal(tx: Transaction, excess: Excess) -> None:
    rows = usage.read_spent(tx)
    for part in excess.parts:
        row = rows.get((part.grant, part.cell))
        if row is not None:
            usage.write_spent(tx, replace(row, signals=row.signals + 1))

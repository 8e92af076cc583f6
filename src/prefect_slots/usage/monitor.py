"""The monitor: periodic looks at foreign use and at grants' own use, made by one elected process of the machine.

Every process that takes part offers itself, and another one takes over when the elected process dies or is stopped.
Drivers and license servers may hang: they are asked in threads of their own, and the last known use stands meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, NoReturn, Protocol

from prefect_slots.ledger import elected, election, queries, registry, store, transaction, usage
from prefect_slots.model import GPU_MEM, MEM, Request, declaration, finding, license_resource
from prefect_slots.settings import Settings
from prefect_slots.system import clock, processes, threads
from prefect_slots.usage import before_grant, foreign, gpus_now

if TYPE_CHECKING:
    from prefect_slots.usage import overuse

ROLE = "watcher"
_log = logging.getLogger("prefect_slots")


class Reached(Protocol):
    """The Prefect server, as far as a look needs it."""

    async def fleet(self, resources: Collection[str]) -> foreign.Fleet:
        """Return the other machines, with the seats of these fleet licenses that others hold."""
        ...

    def tell_stale(self, stale: finding.Stale) -> None:
        """Emit the event `prefect-slots.resource.stale`."""


class Monitor:
    """This process's part in looking at use: its offer for the election, and its looks.

    Attributes:
        server: The Prefect server once this process uses one.
        before_release: See `GpusNow`.
    """

    def __init__(self, ledger: store.Ledger, settings: Settings) -> None:
        self.server: Reached | None = None
        self._ledger = ledger
        self._settings = settings
        self._servers = _by_question(settings.declarations.license_servers)
        self._users = processes.Users()
        self._rests: dict[int, float] = {}
        self._advised: set[str] = set()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._now = gpus_now.GpusNow(ledger, settings)
        self._before = before_grant.BeforeGrant(ledger, settings, self._servers, self._look, self._now)
        self.before_release = self._now.before_release
        self._due_at = 0.0
        self._loop = elected.ElectedLoop(
            ledger,
            ROLE,
            self._due_looks,
            beat_seconds=min(settings.use_seconds, 1.0),
            offers=lambda: bool(self._looks()),
        )

    def use(self, settings: Settings) -> None:
        """Look by other settings from now on."""
        self._settings = self._now.settings = settings
        self._servers = _by_question(settings.declarations.license_servers)
        self._before = before_grant.BeforeGrant(self._ledger, settings, self._servers, self._look, self._now)

    async def round(self) -> None:
        """Make every look once, and record it."""
        await asyncio.gather(*(self._loop.do(job) for job in self._looks().values()))

    async def run(self) -> NoReturn:
        """Look again and again while no other process does."""
        await self._loop.run()

    async def before(self, request: Request) -> None:
        """Look before a request is put to the ledger, as far as no process has looked lately; see `BeforeGrant`."""
        await self._before.look(request)

    async def _look(self, name: str) -> None:
        """Make the look of that name now, or await the one that is under way."""
        looks = self._looks()
        if name in looks:
            await looks[name]()

    def _looks(self) -> dict[str, elected.Job]:
        looks: dict[str, elected.Job] = {}
        if self._settings.declarations.gpus.detect:
            looks["gpus"] = self._gpus
        for name, tables in self._servers.items():
            looks[name] = partial(self._seats, name, tables)
        if self._ledger.read(lambda tx: usage.is_measured(tx, MEM)):
            looks["memory"] = self._memory
        return {name: partial(self._shared, name, work) for name, work in looks.items()}

    async def _shared(self, name: str, work: elected.Job) -> None:
        # A caller that has waited long enough leaves; what the look brings is recorded all the same.
        look = self._under_way.get(name)
        if look is None or look.done():
            look = self._under_way[name] = asyncio.get_running_loop().create_task(self._loop.do(work))
        await asyncio.shield(look)

    def _due_looks(self) -> dict[str, elected.Job]:
        if time.monotonic() < self._due_at:
            return {}
        self._due_at = time.monotonic() + self._settings.use_seconds
        return self._looks()

    async def _gpus(self) -> None:
        keys = frozenset(cell.key for cell in self._ledger.read(registry.registered).cells(GPU_MEM))
        if not keys:
            return
        now = time.time()
        note = await threads.await_in_thread(partial(_look_at_gpus, keys, self._settings), "prefect-slots cards")

        def write(tx: transaction.Transaction) -> overuse.Noted:
            tx.set_meta(before_grant.LOOKED_AT, str(now))
            return note(tx)

        self._say(self._ledger.transact(write))

    async def _seats(self, name: str, tables: tuple[declaration.LicenseServer, ...]) -> None:
        # One process at a time asks a server: hundreds of commands that start together must not load it.
        if not self._ledger.transact(lambda tx: election.take(tx, name, clock.boot_clock())):
            return
        note = await threads.await_in_thread(partial(_ask_servers, tables), "prefect-slots seats")
        # After the question, so that the count is not older than the answer it explains.
        names = {license_resource(name) for table in tables for name, _ in table.features}
        fleet = foreign.Fleet(counted={}) if self.server is None else await self.server.fleet(names)

        def write(tx: transaction.Transaction) -> overuse.Noted:
            election.leave(tx, name)
            return note(tx, fleet, self._users, self._settings.stale_after)

        self._say(self._ledger.transact(write))

    async def _memory(self) -> None:
        from prefect_slots.usage import memory

        parts = self._ledger.read(lambda tx: queries.holdings(tx, MEM))
        found = await threads.await_in_thread(
            partial(memory.read_memory, parts, self._ledger.id, self._rests), "prefect-slots memory"
        )
        self._say(self._ledger.transact(lambda tx: memory.note_memory(tx, found)))

    def _say(self, noted: overuse.Noted) -> None:
        for stale in noted.stale:
            self._tell(stale)
        for excess in noted.excesses:
            self._answer(excess)
        for words in noted.suggestions:
            # A map of five hundred tasks need not say the same five hundred times.
            place = words.partition(" and used")[0].partition("(")[2]
            if place not in self._advised:
                self._advised.add(place)
                _log.info("%s", words)

    def _tell(self, stale: finding.Stale) -> None:
        since = "never told" if stale.seen_at is None else f"told {time.time() - stale.seen_at:.0f} s ago"
        what = f"{stale.resource} ({stale.label})" if stale.label else stale.resource
        _log.warning(
            "what others use of %s is stale: %s, and nobody has answered %d times (%s); what was known last stands",
            *(what, since, stale.misses, stale.why),
        )
        if self.server is not None:
            self.server.tell_stale(stale)

    def _answer(self, excess: overuse.Excess) -> None:
        """Warn of an excess; end its process where that is wanted and allowed."""
        kills = self._settings.enforce == "kill"
        if not excess.row.warned:
            ends = kills and excess.process is not None
            more = " It is ended unless it uses less by the next look." if ends else ""
            _log.warning("%s.%s", excess, more)
        elif kills and excess.process is not None and excess.may_be_ended:
            from prefect_slots.usage import overuse

            # Recorded first: the parent that sees its process end asks at once for the reason.
            self._ledger.transact(lambda tx: overuse.note_signal(tx, excess))
            signalled = overuse.end(*excess.process, by_force=excess.row.signals > 0)
            if signalled:
                _log.error('%s: %s, by enforce = "kill"', excess, signalled)


# Modules for looks are imported where a look is made: every process that takes part imports this one, and most of them
# never look.


def _by_question(
    servers: tuple[declaration.LicenseServer, ...],
) -> dict[str, tuple[declaration.LicenseServer, ...]]:
    """Return the tables that one question to a license server answers, by the name of the look that asks it."""
    if not servers:
        return {}
    from prefect_slots.detect.licenses.client import questions

    return {
        " ".join(("seats", question.vendor, question.server, *question.command)): tables
        for question, tables in questions(servers).items()
    }


def _look_at_gpus(keys: frozenset[str], settings: Settings) -> Callable[[transaction.Transaction], overuse.Noted]:
    from prefect_slots.usage.gpus import look_at_gpus, note_gpus

    return partial(note_gpus, seen=look_at_gpus(keys, settings.detect_seconds), settings=settings)


def _ask_servers(
    servers: tuple[declaration.LicenseServer, ...],
) -> Callable[[transaction.Transaction, foreign.Fleet, processes.Users, int], overuse.Noted]:
    from prefect_slots.detect.licenses.client import DESK
    from prefect_slots.usage.licenses import ask_servers, note_seats

    return partial(note_seats, ask_servers(servers, dict(os.environ), DESK))

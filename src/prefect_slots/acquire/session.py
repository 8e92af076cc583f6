"""The session of this process with a machine's ledger: its owner, wake-ups, upkeep, server, and end.

Everything here runs in the engine's thread.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_slots.acquire.meeting import meet
from prefect_slots.acquire.tickets import POLL_SECONDS, Held, Tickets, Waiting, missing
from prefect_slots.errors import LedgerUnreadable, NotRegistered
from prefect_slots.ledger import registry, store, wakeup
from prefect_slots.ledger.owner import Owner, bury
from prefect_slots.model import GPU_MEM, Request
from prefect_slots.scheduling.decide import decide
from prefect_slots.settings import Settings
from prefect_slots.system import clock
from prefect_slots.usage.monitor import Monitor

if TYPE_CHECKING:
    from prefect_slots.leases.session import ServerSession

_log = logging.getLogger("prefect_slots")


class Upkeep:
    """Looks for dead owners, and for tickets of this process to end, at once and again and again.

    There is no daemon: each process does it at its start, at its end, and while any of its tickets is unfinished.
    """

    def __init__(self, ledger: store.Ledger, tickets: Tickets) -> None:
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
            self._tickets.before_release()
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


class Session:
    """An owner in a machine's ledger, from the first request of a process to its end.

    Attributes:
        ledger: Opened for this owner.
        tickets: Its requests and grants.
        upkeep: Of the ledger; runs by itself while this process waits.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Lock, open the ledger, bind the wake-up socket, then let the ledger know of all three."""
        self._folder = folder
        self._settings = settings
        # Rule 21: the lock stands before the row, so that nobody finds the row of a process that seems dead.
        with contextlib.ExitStack() as undo:
            self._owner = Owner.start(folder)
            undo.callback(self._owner.end, folder)
            self.ledger = store.Ledger(folder, partial(decide, max_overtakes=settings.max_overtakes), self._owner.id)
            undo.callback(self.ledger.close)
            self._socket = wakeup.WakeSocket(folder, self._owner.id)
            undo.callback(self._socket.close)
            self.ledger.transact(lambda tx: tx.enrol(self._owner, self._socket.address))
            undo.pop_all()
        self._loop = asyncio.get_running_loop()
        self._registered = registry.Known()
        self._first_use: asyncio.Task[registry.Registered] | None = None
        self._restoring: asyncio.Task[None] | None = None
        self._server: ServerSession | None = None
        self._met = False
        self._monitor = Monitor(self.ledger, settings)
        self._monitoring = self._loop.create_task(self._monitor.run())
        self.tickets = Tickets(self.ledger, self._registered, self._restore)
        self.upkeep = Upkeep(self.ledger, self.tickets)
        self.tickets.on_unfinished = self.upkeep.start
        self.tickets.before_release = self._monitor.before_release
        self.ledger.on_settled = self.tickets.wake
        self._loop.add_reader(self._socket.socket, lambda: self.tickets.wake(self._socket.receive()))
        self.upkeep.tend()

    @property
    def descriptor(self) -> int:
        """The owner's locked file: a child process that inherits it keeps this owner's grants alive."""
        return self._owner.descriptor

    def use(self, settings: Settings) -> None:
        """Follow other declarations from now on."""
        self._settings = settings
        self._monitor.use(settings)

    async def use_server(self, url: str) -> None:
        """Occupy limits on that server for every grant from now on."""
        if self._server is None:
            # Prefect takes seconds to import, and a machine without a server never needs it.
            from prefect_slots.leases.session import ServerSession

            self._server = await ServerSession.open(self.ledger, self._registered, self._settings, url)
            self._server.look.restore = self._restore
            self._monitor.server = self.tickets.server = self._server
            self.upkeep.tend()

    async def ask(self, request: Request, url: str | None) -> Held | Waiting:
        """Enqueue a request and return its grant, or why it waits.

        Raises:
            UnknownResource, Impossible, OutOfOrder, GrantClosed: it can never be granted; nothing is enqueued.
            NotFoundYet: it cannot be granted now; nothing is enqueued.
            NotRegistered: the server cannot know this machine; see `auto_register`.
            GpusShared: another ledger of this host offers the same GPUs, and the settings forbid that.
        """
        registered = await self._machine(url)
        if url is not None:
            await self.use_server(url)
        started = time.monotonic()
        request = replace(request, requirement=registered.pooled(request.wanted))
        # The first resource of each alternative that this machine lacks.
        unknown = [
            next((name for name in alternative.resources if name not in registered.names), None)
            for alternative in request.wanted.alternatives
        ]
        if all(unknown):
            raise missing(unknown[0] or "", registered, self._settings.declarations.looked_for)
        request = replace(request, requirement=registered.with_host_memory(request.wanted))
        await self._monitor.before(request)
        return await self.tickets.ask(request, registered, started)

    async def _machine(self, url: str | None) -> registry.Registered:
        """Return this machine, registering it first where the settings allow."""
        known = self.ledger.read(self._registered)
        if known.machine is not None:
            if not self._met:
                for finding in meet(self.ledger, self._settings, [cell.key for cell in known.cells(GPU_MEM)]):
                    _log.warning("%s %s; %s", finding.subject, finding.problem, finding.remedy)
                self._met = True
            return known
        if url is not None and not self._settings.auto_register:
            raise NotRegistered(state_dir=str(self._folder))
        if self._first_use is None or self._first_use.done():
            self._first_use = self._loop.create_task(self._register(url))
        # One survey for all requests that come meanwhile; it goes on if one of them is cancelled.
        return await asyncio.shield(self._first_use)

    async def _register(self, url: str | None) -> registry.Registered:
        # Not before it is needed: a child forked while this thread imports would wait for that import for ever.
        from prefect_slots.acquire import registration

        if url is None:
            return (await registration.register_here(self.ledger, self._settings, first_use=True)).registered
        return (await registration.register_everywhere(self.ledger, self._settings, url=url)).registered

    async def _restore(self) -> bool:
        """Make this machine's limits on the server again, where the settings allow that."""
        if not self._settings.auto_register or self._server is None:
            return False
        if self._restoring is None or self._restoring.done():
            from prefect_slots.acquire import registration

            self._restoring = self._loop.create_task(
                registration.restore(self.ledger, self._settings, self._server.url)
            )
        # One attempt for all requests that come meanwhile.
        await asyncio.shield(self._restoring)
        return True

    async def close(self) -> None:
        """Give back everything, leave the ledger, then let go of the lock."""
        # Upkeep and monitoring use the ledger, which is closed below.
        self.upkeep.stop()
        self._monitoring.cancel()
        if self._first_use is not None:
            self._first_use.cancel()
        if self._restoring is not None:
            self._restoring.cancel()
        self._loop.remove_reader(self._socket.socket)
        forgotten = False
        # This may be the last process: nobody would clear up after owners that died meanwhile.
        self.upkeep.tend()
        try:
            self._monitor.before_release()
            forgotten = self._withdraw()
            if self._server is not None:
                await self._server.drain()
                await self._server.close()
                # Again: the row of an owner stays until its last lease is given back.
                forgotten = self._withdraw()
        except LedgerUnreadable as error:
            _log.warning("the next process gives back the grants of this one: %s", error)
        finally:
            self._socket.close()
            self.ledger.close()
            self._owner.end(self._folder, forgotten=forgotten)

    def _withdraw(self) -> bool:
        return self.ledger.transact(lambda tx: tx.drop_owner(self._owner.id), frees=True)

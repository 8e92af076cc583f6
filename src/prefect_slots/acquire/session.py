"""This process's part in one ledger: its owner, its tickets, its wake-ups, and reaping the dead.

Everything here runs in the engine's thread. A ticket's id exists before the transaction that writes it, so that
whatever happens to the caller, `leave` can end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
import weakref
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prefect_slots.acquire.request import Ask, Held, Waiting, missing
from prefect_slots.errors import (
    GrantClosed,
    Impossible,
    LedgerUnreadable,
    NotRegistered,
    OutOfOrder,
    WaitTimeout,
)
from prefect_slots.ledger import leases, queries, registry, usage
from prefect_slots.ledger.failpoints import Point, reached
from prefect_slots.ledger.owner import Owner, bury
from prefect_slots.ledger.registry import Registered
from prefect_slots.ledger.sql import Asker
from prefect_slots.ledger.store import Ledger
from prefect_slots.ledger.transaction import TicketState, Transaction
from prefect_slots.ledger.wakeup import WakeSocket
from prefect_slots.model.amount import duration_asked
from prefect_slots.model.book import Asked, Grant, Nesting, Shape, Ticket
from prefect_slots.model.requirement import Requirement
from prefect_slots.scheduling import grant_reuse
from prefect_slots.scheduling.decide import decide
from prefect_slots.scheduling.explain import is_possible, is_stranded, largest, shortages
from prefect_slots.scheduling.nesting import RefusedNesting, chain_of, nest
from prefect_slots.system import clock
from prefect_slots.usage.monitor import Watching

if TYPE_CHECKING:
    from prefect_slots.leases.session import ServerSession
    from prefect_slots.settings import Settings

POLL_SECONDS: Final = 0.5
_log = logging.getLogger("prefect_slots")


class Session:
    """An owner in a machine's ledger, from the first request of a process to its end."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Lock, open the ledger, bind the wake-up socket, then let the ledger know of all three."""
        self.folder = folder
        self._settings = settings
        with contextlib.ExitStack() as undo:
            self._owner = Owner.start(folder)
            undo.callback(self._owner.end, folder)
            self.ledger = Ledger(folder, partial(decide, max_overtakes=settings.max_overtakes), self._owner.id)
            undo.callback(self.ledger.close)
            self._socket = WakeSocket(folder, self._owner.id)
            undo.callback(self._socket.close)
            self.ledger.transact(lambda tx: tx.enrol(self._owner, self._socket.address))
            undo.pop_all()
        self.ledger.on_settled = self._wake
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.socket, lambda: self._wake(self._socket.receive()))
        self._registered = registry.Known()
        self._server: ServerSession | None = None
        self._asked: dict[str, tuple[Ask, float]] = {}
        self._wakes: dict[str, asyncio.Future[None]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._first_use: asyncio.Task[Registered] | None = None
        self._finalizers: dict[str, weakref.finalize[..., Held]] = {}
        self._to_leave: set[str] = set()
        self._watching_others = Watching(self.ledger, settings)
        self._looking = self._loop.create_task(self._watching_others.run())
        self._tend()

    @property
    def descriptor(self) -> int:
        """The owner's locked file: a child process that inherits it keeps this owner's grants alive."""
        return self._owner.descriptor

    async def use_server(self, url: str) -> None:
        """Occupy limits on that server for every grant from now on."""
        if self._server is None:
            from prefect_slots.leases.session import ServerSession

            self._server = self._watching_others.server = await ServerSession.open(
                self.ledger, self._registered, self._settings, url
            )
            self._tend()

    async def registered(self, url: str | None) -> Registered:
        """Return what this machine has, registering it first where the settings allow.

        Raises:
            NotRegistered: with a server, unless `auto_register`.
        """
        known = self.ledger.read(self._registered)
        if known.machine is not None:
            return known
        if url is not None and not self._settings.auto_register:
            raise NotRegistered(state_dir=str(self.folder))
        if self._first_use is None or self._first_use.done():
            self._first_use = self._loop.create_task(self._register(url))
        # One look for all who ask meanwhile; it goes on if one of them stops asking.
        return await asyncio.shield(self._first_use)

    async def _register(self, url: str | None) -> Registered:
        # Not before it is needed: a child forked while this thread imports would wait for that import for ever.
        from prefect_slots.acquire import registration

        if url is None:
            return (await registration.register_here(self.ledger, self._settings)).registered
        return (await registration.register_everywhere(self.ledger, self._settings, url=url)).registered

    # One request: ask, wait, leave

    async def ask(self, ask: Ask, url: str | None) -> Held | Waiting:
        """Enqueue a request and return its grant, or why it waits.

        Raises:
            UnknownResource, Impossible, OutOfOrder, GrantClosed: it can never be granted; nothing is enqueued.
            NotFoundYet: it cannot be granted now; nothing is enqueued.
        """
        registered = await self.registered(url)
        if url is not None:
            await self.use_server(url)
        started = time.monotonic()
        alternatives = ask.requirement.alternatives
        unknown = [_first_unknown(alternative, registered.names) for alternative in alternatives]
        if all(unknown):
            raise missing(unknown[0] or "", registered, self._settings.declarations.looked_for)
        await self._watching_others.before(ask.requirement)
        self._asked[ask.id] = (ask, started)
        self._wakes[ask.id] = self._loop.create_future()
        self.ledger.transact(lambda tx: self._enqueue(tx, ask, registered))
        held = await self._granted(ask, started)
        return held or Waiting(self._reason(ask))

    async def wait(self, ticket: str) -> Held:
        """Return the grant of a request that waits, once it has one.

        Raises:
            WaitTimeout: its `timeout` passed; it has left the queue.
            GrantClosed: it waited to draw on a grant that has ended.
        """
        ask, started = self._asked[ticket]
        self._start_watching()
        while True:
            left = None if ask.timeout is None else started + ask.timeout - time.monotonic()
            if left is not None and left <= 0:
                reason = self._reason(ask)
                self.leave(ticket)
                raise WaitTimeout(wanted=ask.requirement.describe(), seconds=ask.timeout or 0.0, reason=reason)
            await self._woken(ticket, POLL_SECONDS if left is None else min(POLL_SECONDS, left))
            held = await self._granted(ask, started)
            if held is not None:
                return held

    def leave(self, ticket: str) -> str | None:
        """End a request or its grant, whatever state it is in, and start giving back what it occupied.

        Returns:
            A limit of which others could, for a while, take what the grant held; `None` if all went well.
        """
        self._asked.pop(ticket, None)
        self._wakes.pop(ticket, None)
        finalizer = self._finalizers.pop(ticket, None)
        if finalizer is not None:
            finalizer.detach()
        try:
            lost = self.ledger.transact(lambda tx: _left(tx, ticket), frees=True)
        except LedgerUnreadable:
            # While this process lives nobody else can end what is its own: it is tried until it is done.
            self._to_leave.add(ticket)
            self._start_watching()
            raise
        reached(Point.CELLS_FREED)
        self._to_leave.discard(ticket)
        if self._server is not None:
            self._server.sweep()
        return lost

    def may_go_on(self, grant: str, ticket: str | None) -> bool:
        """Tell whether a grant may serve another task of its shape, `ticket` being who waits for the same.

        See `scheduling.lasting`; what the fleet shares is never kept from other machines' queues.
        """

        def look(tx: Transaction) -> bool:
            scopes = self._registered(tx).scopes if self._server is not None else {}
            return grant_reuse.may_go_on(tx.book(), grant, ticket, scopes)

        return self.ledger.read(look)

    def reason(self, ticket: str) -> str:
        """Say why a request waits now; empty if it does not."""
        asked = self._asked.get(ticket)
        return self._reason(asked[0]) if asked is not None and ticket in self._wakes else ""

    def _enqueue(self, tx: Transaction, ask: Ask, registered: Registered) -> None:
        book = tx.book()
        wanted = ask.requirement.describe()
        nesting: Nesting | None = None
        may_wait = True
        if ask.parent is not None and ask.parent.ledger == self.ledger.id:
            chain = chain_of(book, ask.parent.grant)
            if not chain:
                raise GrantClosed(grant=ask.parent.grant)
            answer = nest(book, ask.requirement, chain, ask.id, registered.scopes)
            if isinstance(answer, RefusedNesting):
                raise _refused(tx, answer, wanted, ask.label)
            nesting, may_wait = answer.nesting, answer.may_wait
        if not is_possible(book, ask.requirement):
            text = largest(book, ask.requirement, registered.labels)
            raise Impossible(wanted=wanted, largest=text, machine=registered.machine or "")
        expected = None if ask.expected is None else duration_asked(ask.expected)
        shape = Shape(requirement=ask.requirement, priority=ask.priority, expected=expected, nesting=nesting)
        ticket = Ticket(id=ask.id, seq=tx.next_seq(), run=ask.run or self._owner.id)
        tx.apply(
            Asked(shape=shape, ticket=ticket),
            Asker(owner=self._owner.id, label=ask.label, for_children=ask.for_children),
        )
        if not may_wait and tx.state(ask.id) is not TicketState.HELD and nesting is not None:
            parent = next(grant for grant in book.grants if grant.id == nesting.parent)
            raise _refused(tx, RefusedNesting(parent, closed=False), wanted, ask.label)

    async def _granted(self, ask: Ask, started: float) -> Held | None:
        state, grant, there, registered = self.ledger.read(lambda tx: self._stand(tx, ask.id))
        if state is TicketState.REFUSED:
            self.leave(ask.id)
            raise GrantClosed(grant=ask.parent.grant if ask.parent else "")
        if state is TicketState.GONE:
            # Only an owner taken for dead loses tickets, and the lock this process holds forbids that.
            raise LedgerUnreadable(path=str(self.ledger.path), reason=f"ticket {ask.id} has vanished from it")
        if grant is None:
            return None
        reached(Point.GRANTED)
        on_server = self._server if grant.shape.pool is None else None
        until = None if ask.timeout is None else started + ask.timeout
        if on_server is not None and not await on_server.occupy(grant, registered, there, until):
            return None
        self._wakes.pop(ask.id, None)
        held = Held(
            id=grant.id,
            holdings=grant.holdings,
            registered=registered,
            ledger_id=self.ledger.id,
            folder=self.folder,
            waited=time.monotonic() - started,
            chosen=grant.chosen,
        )
        # A caller that is interrupted between this return and its own `try` drops the grant without a word.
        dropped = weakref.finalize(held, self._dropped, grant.id)
        dropped.atexit = False
        self._finalizers[grant.id] = dropped
        return held

    def _stand(
        self, tx: Transaction, ticket: str
    ) -> tuple[TicketState, Grant | None, list[leases.LeaseRow], Registered]:
        state = tx.state(ticket)
        if state is TicketState.HELD:
            return state, tx.grant(ticket), leases.of_grant(tx, ticket), self._registered(tx)
        return state, None, [], self._registered(tx)

    def _dropped(self, grant: str) -> None:
        if os.getpid() != self._owner.pid:
            return  # a forked child's copy: the grant is its parent's
        with contextlib.suppress(RuntimeError):  # the loop has ended, and so has everything that was held
            self._loop.call_soon_threadsafe(self.leave, grant)

    def _reason(self, ask: Ask) -> str:
        def explain(tx: Transaction) -> str:
            row = tx.one("SELECT blocked_on FROM ticket WHERE id=?", ask.id)
            if row is not None and row[0] is not None:
                return f"waits for the server; limit refused: {row[0]}"
            book = tx.book()
            if is_stranded(book, ask.requirement, ask.id):
                wanted = ask.requirement.describe()
                return f"waits for {wanted}: what others use, or is broken, leaves too little on every cell"
            missing = shortages(book, ask.requirement, ask.id)
            return "; ".join(map(str, missing)) or f"waits its turn for {ask.requirement.describe()}"

        return self.ledger.read(explain)

    def note_command(self, pid: int, started: float) -> None:
        """Note the one process that this one runs under its grants."""
        self.ledger.transact(lambda tx: usage.note_command(tx, pid, started))

    def note_serving(self, pid: int, started: float, grant: str) -> None:
        """Note which grant a task process of this one serves from now on; empty for none."""
        self.ledger.transact(lambda tx: usage.note_serving(tx, pid, started, grant))

    def was_ended(self, grant: str) -> bool:
        """Tell whether that process was asked to end because it used more than the grant declared."""
        return self.ledger.read(lambda tx: usage.was_ended(tx, grant))

    # Waking and reaping

    def _wake(self, tickets: list[str]) -> None:
        for ticket in tickets:
            woken = self._wakes.get(ticket)
            if woken is not None and not woken.done():
                woken.set_result(None)

    async def _woken(self, ticket: str, seconds: float) -> None:
        """Wait for a ticket's wake-up, or that long: a datagram may be lost."""
        tick = self._loop.call_later(seconds, self._wake, [ticket])
        try:
            await self._wakes[ticket]
        finally:
            tick.cancel()
        self._wakes[ticket] = self._loop.create_future()

    def _start_watching(self) -> None:
        if self._watch is None or self._watch.done():
            self._watch = self._loop.create_task(self._watching())

    async def _watching(self) -> None:
        while self._wakes or self._to_leave:
            await asyncio.sleep(clock.between(POLL_SECONDS / 2, POLL_SECONDS))
            self._tend()

    def _tend(self) -> None:
        """Reap the dead, and end what could not be ended before; a ledger that is locked now is tried again later."""
        try:
            self._reap()
            for ticket in tuple(self._to_leave):
                self.leave(ticket)
        except LedgerUnreadable as error:
            _log.debug("trying again: %s", error)

    def _reap(self) -> None:
        for owner in self.ledger.read(lambda tx: tx.dead_owners()):
            _log.info("reaping process %s, which died", owner)
            if self.ledger.transact(lambda tx, dead=owner: tx.drop_owner(dead), frees=True):
                bury(self.folder, owner)
        if self._server is not None:
            self._server.sweep()

    async def watch(self) -> None:
        """Reap the dead until cancelled, for a process that waits for nothing itself."""
        while True:
            self._tend()
            await asyncio.sleep(clock.between(POLL_SECONDS / 2, POLL_SECONDS))

    async def close(self) -> None:
        """Give back everything, leave the ledger, then let go of the lock."""
        for task in (self._watch, self._first_use, self._looking):
            if task is not None:
                task.cancel()
        self._loop.remove_reader(self._socket.socket)
        forgotten = False
        # Nobody may be left to clear up after those who died meanwhile and left nothing but their name.
        self._tend()
        try:
            forgotten = self._withdraw()
            if self._server is not None:
                await self._server.drain()
                await self._server.close()
                forgotten = self._withdraw()
        except LedgerUnreadable as error:
            _log.warning("what this process holds is given back by the next one: %s", error)
        finally:
            self._socket.close()
            self.ledger.close()
            self._owner.end(self.folder, forgotten=forgotten)

    def _withdraw(self) -> bool:
        return self.ledger.transact(lambda tx: tx.drop_owner(self._owner.id), frees=True)


def _first_unknown(requirement: Requirement, known: Collection[str]) -> str | None:
    return next((name for name in requirement.resources if name not in known), None)


def _left(tx: Transaction, ticket: str) -> str | None:
    lost = leases.lost(tx, ticket)
    tx.leave(ticket)
    return lost


def _refused(tx: Transaction, answer: RefusedNesting, wanted: str, label: str) -> GrantClosed | OutOfOrder:
    if answer.closed:
        return GrantClosed(grant=answer.held.id)
    held = ", ".join(sorted({cell.resource for cell, _ in answer.held.holdings}))
    return OutOfOrder(wanted=wanted, held=held, held_at=queries.label(tx, answer.held.id), wanted_at=label)

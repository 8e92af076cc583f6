"""The tickets of this process: asked, waited for, granted, ended.

Everything here runs in the engine's thread. A ticket's id exists before the transaction that writes it, so that
`leave` can end it in any state.
"""

import asyncio
import contextlib
import os
import time
import weakref
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_slots import errors
from prefect_slots.ledger import failpoints, leases, queries, registry, store, transaction
from prefect_slots.model import Asked, Grant, Holding, Nesting, Request, Shape, Ticket, duration_asked
from prefect_slots.observe.reason import reason
from prefect_slots.scheduling import grant_reuse
from prefect_slots.scheduling.explain import is_possible, largest
from prefect_slots.scheduling.nesting import RefusedNesting, chain_of, chain_of_runs, nest

if TYPE_CHECKING:
    from prefect_slots.leases.session import ServerSession

# Longest wait for a wake-up, in seconds, before the ledger is read all the same: a datagram may be lost. A longer one
# would be felt by people, a shorter one would load the ledger with every waiting process.
POLL_SECONDS = 0.5


# A ticket's state, with its grant and the leases handed over to it once it is held, on the machine as it then is.
_Standing = tuple[transaction.TicketState, Grant | None, list[leases.LeaseRow], registry.Registered]


@dataclass(frozen=True, kw_only=True)
class Held:
    """A grant: its cells, the seconds it `waited`, and the index of the alternative that was `chosen`."""

    id: str
    holdings: tuple[Holding, ...]
    registered: registry.Registered
    ledger_id: str
    folder: Path
    waited: float
    chosen: int = 0


@dataclass(frozen=True)
class Waiting:
    """A request in the queue, with the reason for which it waits."""

    reason: str


def missing(name: str, registered: registry.Registered, looked_for: Collection[str]) -> errors.SlotsError:
    """Return the error of a request for a resource that the machine lacks: to be tried again, or final."""
    machine = registered.machine or ""
    if name in looked_for:
        return errors.NotFoundYet(name=name, machine=machine)
    return errors.UnknownResource(name=name, known=registered.names, machine=machine)


class Tickets:
    """Requests of one owner, from the transaction that enqueues them to the one that frees their cells.

    Attributes:
        on_unfinished: Called when a ticket waits or could not be ended, and must be looked after from now on.
        before_release: Called before cells come free for others.
        server: Session with the server whose limits grants occupy; `None` without one.
        restore: Makes limits that were deleted again where the settings allow; returns whether they are there now.
    """

    def __init__(
        self, ledger: store.Ledger, registered: registry.Known, restore: Callable[[], Awaitable[bool]]
    ) -> None:
        self.on_unfinished: Callable[[], None] = lambda: None
        self.before_release: Callable[[], None] = lambda: None
        self.server: ServerSession | None = None
        self.restore = restore
        self._ledger = ledger
        self._registered = registered
        self._pid = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._asked: dict[str, tuple[Request, float]] = {}
        self._wakes: dict[str, asyncio.Future[None]] = {}
        self._finalizers: dict[str, weakref.finalize[..., Held]] = {}
        self._to_leave: set[str] = set()

    @property
    def are_unfinished(self) -> bool:
        """True if any ticket waits or could not be ended."""
        return bool(self._wakes or self._to_leave)

    async def ask(self, request: Request, registered: registry.Registered, started: float) -> Held | Waiting:
        """Enqueue a request and return its grant, or why it waits.

        Args:
            request: Request with an id of its own.
            registered: Machine that it was checked against.
            started: Monotonic time from which its `timeout` counts, in seconds.

        Raises:
            Impossible, OutOfOrder, GrantClosed: it can never be granted; nothing is enqueued.
        """
        self._asked[request.id] = (request, started)
        self._wakes[request.id] = self._loop.create_future()
        standing = self._ledger.transact(lambda tx: self._enqueue(tx, request, registered))
        held = await self._granted(request, started, standing)
        return held or Waiting(self._reason(request))

    async def wait(self, ticket: str) -> Held:
        """Wait for the grant of a request and return it.

        Raises:
            WaitTimeout: its `timeout` passed; it has left the queue.
            GrantClosed: it waited to draw on a grant that has ended.
        """
        request, started = self._asked[ticket]
        self.on_unfinished()
        while True:
            left = None if request.timeout is None else started + request.timeout - time.monotonic()
            if left is not None and left <= 0:
                why = self._reason(request)
                self.leave(ticket)
                raise errors.WaitTimeout(wanted=request.wanted.describe(), seconds=request.timeout or 0.0, reason=why)
            await self._woken(ticket, POLL_SECONDS if left is None else min(POLL_SECONDS, left))
            standing = self._ledger.read(lambda tx: self._stand(tx, ticket))
            held = await self._granted(request, started, standing)
            if held is not None:
                return held

    def leave(self, ticket: str) -> str | None:
        """End a request or its grant, in any state, and start releasing its leases.

        Returns:
            Name of a limit whose slots others could take for a while although the grant held them; else `None`.
        """
        self._asked.pop(ticket, None)
        self._wakes.pop(ticket, None)
        finalizer = self._finalizers.pop(ticket, None)
        if finalizer is not None:
            finalizer.detach()
        try:
            self.before_release()
            lost = self._ledger.transact(lambda tx: _left(tx, ticket), frees=True)
        except errors.LedgerUnreadable:
            # No other process can end a ticket of a living one, so it is tried until it is done.
            self._to_leave.add(ticket)
            self.on_unfinished()
            raise
        failpoints.reached(failpoints.Point.CELLS_FREED)
        self._to_leave.discard(ticket)
        self.sweep()
        return lost

    def sweep(self) -> None:
        """Start releasing the leases that are this process's to release."""
        if self.server is not None:
            self.server.sweep()

    def leave_again(self) -> None:
        """End the tickets that could not be ended before.

        Raises:
            LedgerUnreadable: it still cannot be.
        """
        for ticket in tuple(self._to_leave):
            self.leave(ticket)

    def may_go_on(self, grant: str, ticket: str | None) -> bool:
        """Return True if a grant may serve another task of its shape, `ticket` being one that waits for the same.

        See `scheduling.grant_reuse`; resources of the fleet are never kept from other machines' queues.
        """

        def look(tx: transaction.Transaction) -> bool:
            scopes = self._registered(tx).scopes if self.server is not None else {}
            return grant_reuse.may_go_on(tx.book(), grant, ticket, scopes)

        return self._ledger.read(look)

    def reason(self, ticket: str) -> str:
        """Return the reason for which a request waits now; empty if it does not."""
        asked = self._asked.get(ticket)
        return self._reason(asked[0]) if asked is not None and ticket in self._wakes else ""

    def _enqueue(self, tx: transaction.Transaction, request: Request, registered: registry.Registered) -> _Standing:
        book = tx.book()
        wanted = request.wanted.describe()
        nesting: Nesting | None = None
        may_wait = True
        chain = chain_of_runs(book, request.awaited_by)
        # A grant of another machine, inherited through the environment, has no cells here to draw on.
        if request.parent is not None and request.parent.ledger == self._ledger.id:
            chain = chain_of(book, request.parent.grant)
            if not chain:
                raise errors.GrantClosed(grant=request.parent.grant)
        if chain:
            answer = nest(book, request.wanted, chain, request.id, registered.scopes)
            if isinstance(answer, RefusedNesting):
                raise _refused(tx, answer, wanted, request.label)
            nesting, may_wait = answer.nesting, answer.may_wait
        if not is_possible(book, request.wanted):
            text = largest(book, request.wanted)
            raise errors.Impossible(wanted=wanted, largest=text, machine=registered.machine or "")
        expected = None if request.expected_seconds is None else duration_asked(request.expected_seconds)
        shape = Shape(requirement=request.wanted, priority=request.priority, expected=expected, nesting=nesting)
        ticket = Ticket(id=request.id, seq=tx.next_seq(), run=request.run or self._ledger.actor)
        tx.apply(Asked(shape=shape, ticket=ticket), request)
        # Rule 7: a draw that could deadlock is refused here; the raised error rolls its ticket back.
        standing = self._stand(tx, request.id)
        if not may_wait and standing[0] is not transaction.TicketState.HELD and nesting is not None:
            parent = next(grant for grant in book.grants if grant.id == nesting.parent)
            raise _refused(tx, RefusedNesting(parent, closed=False), wanted, request.label)
        return standing

    async def _granted(self, request: Request, started: float, standing: _Standing) -> Held | None:
        state, grant, there, registered = standing
        if state is transaction.TicketState.REFUSED:
            self.leave(request.id)
            raise errors.GrantClosed(
                grant=request.parent.grant if request.parent else "of the flow run that awaits this one"
            )
        if state is transaction.TicketState.GONE:
            # Only an owner taken for dead loses tickets, and the lock this process holds forbids that.
            reason = f"ticket {request.id} has vanished from it"
            raise errors.LedgerUnreadable(path=str(self._ledger.path), reason=reason)
        if grant is None:
            return None
        failpoints.reached(failpoints.Point.GRANTED)
        # A draw lies within its root grant, whose leases count it already.
        on_server = self.server if grant.shape.pool is None else None
        until = None if request.timeout is None else started + request.timeout
        if on_server is not None and not await self._occupy(on_server, grant, registered, there, until):
            return None
        self._wakes.pop(request.id, None)
        held = Held(
            id=grant.id,
            holdings=grant.holdings,
            registered=registered,
            ledger_id=self._ledger.id,
            folder=self._ledger.folder,
            waited=time.monotonic() - started,
            chosen=grant.chosen,
        )
        # A caller that is interrupted between this return and its own `try` drops the grant without a word.
        dropped = weakref.finalize(held, self._dropped, grant.id)
        dropped.atexit = False
        self._finalizers[grant.id] = dropped
        return held

    async def _occupy(
        self,
        server: "ServerSession",
        grant: Grant,
        registered: registry.Registered,
        there: list[leases.LeaseRow],
        until: float | None,
    ) -> bool:
        try:
            return await server.occupy(grant, registered, there, until)
        except errors.LimitMissing:
            if not await self.restore():
                raise
        there = self._ledger.read(lambda tx: leases.of_grant(tx, grant.id))
        return await server.occupy(grant, registered, there, until)

    def _stand(self, tx: transaction.Transaction, ticket: str) -> _Standing:
        state = tx.state(ticket)
        if state is transaction.TicketState.HELD:
            return state, tx.grant(ticket), leases.of_grant(tx, ticket), self._registered(tx)
        return state, None, [], self._registered(tx)

    def _dropped(self, grant: str) -> None:
        if os.getpid() != self._pid:
            return  # a forked child's copy; the grant belongs to its parent
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it all grants
            self._loop.call_soon_threadsafe(self.leave, grant)

    def _reason(self, request: Request) -> str:
        def explain(tx: transaction.Transaction) -> str:
            refused = tx.blocked_limit(request.id)
            if refused is not None:
                return f"waits for the server; limit refused: {refused}"
            return reason(tx, tx.book(), request.wanted, request.id)

        return self._ledger.read(explain)

    def wake(self, tickets: list[str]) -> None:
        """Wake tickets that were granted or refused."""
        for ticket in tickets:
            woken = self._wakes.get(ticket)
            if woken is not None and not woken.done():
                woken.set_result(None)

    async def _woken(self, ticket: str, seconds: float) -> None:
        """Wait for a ticket's wake-up, or that long: a datagram may be lost."""
        tick = self._loop.call_later(seconds, self.wake, [ticket])
        try:
            await self._wakes[ticket]
        finally:
            tick.cancel()
        self._wakes[ticket] = self._loop.create_future()


def _left(tx: transaction.Transaction, ticket: str) -> str | None:
    lost = leases.lost(tx, ticket)
    tx.leave(ticket)
    return lost


def _refused(tx: transaction.Transaction, answer: RefusedNesting, wanted: str, label: str) -> errors.SlotsError:
    if answer.closed:
        return errors.GrantClosed(grant=answer.held.id)
    held = ", ".join(sorted({cell.resource for cell, _ in answer.held.holdings}))
    return errors.OutOfOrder(wanted=wanted, held=held, held_at=queries.label(tx, answer.held.id), wanted_at=label)

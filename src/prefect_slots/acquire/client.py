"""One request from the caller's thread or task: safe against interruption at any point.

Ctrl-C, Prefect's task timeout or cancellation of its task may stop the caller at any point. Its ticket is ended in the
engine, which is not interrupted.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil

from prefect_slots.acquire.coordination import Coordination
from prefect_slots.acquire.engine import Engine, engine, running_engine
from prefect_slots.acquire.session import Session
from prefect_slots.acquire.tickets import Held, Waiting
from prefect_slots.ledger import usage
from prefect_slots.model import Request
from prefect_slots.settings import Settings

T = TypeVar("T")
# Prefect stops a task in a worker thread by an exception that is raised only when the thread returns to Python, so a
# wait is cut into slices; a quarter of a second is not felt as a delay.
_SLICE_SECONDS = 0.25
_log = logging.getLogger("prefect_slots")


class Hooks(Protocol):
    """Callbacks in the caller's own context: the request waits, and it goes on."""

    def waiting(self, reason: str) -> None:
        """The request stands in the queue; called once, with the reason."""

    def resumed(self) -> None:
        """The request that waited was granted."""


@dataclass(frozen=True)
class Target:
    """The target of a request: settings, a state folder, and the mode of coordination."""

    folder: Path
    coordination: Coordination
    settings: Settings

    @property
    def key(self) -> str:
        """Key of the target's session among those of a process: two servers need two sessions in one ledger."""
        return f"{self.folder}|{self.coordination.url or ''}"


def session_at(running: Engine, target: Target) -> Session:
    """Return this process's part in that ledger; call it in the engine's thread."""
    session = _known_session(running, target)
    if session is None:
        session = running.parts[target.key] = Session(target.folder, target.settings)
        running.at_close(session.close)
    return session


def _known_session(running: Engine, target: Target) -> Session | None:
    return running.parts.get(target.key)


async def _ask(running: Engine, target: Target, request: Request) -> Held | Waiting:
    return await session_at(running, target).ask(request, target.coordination.url)


async def _wait(running: Engine, target: Target, ticket: str) -> Held:
    return await session_at(running, target).tickets.wait(ticket)


def _forget(running: Engine | None, target: Target, ticket: str) -> concurrent.futures.Future[str | None] | None:
    """Start ending a ticket in any state; `None` if the engine has ended, and with it all that it asked for."""
    if running is None:
        return None

    def leave() -> str | None:
        # A session begun only to end a ticket would enrol an owner that nobody asked for.
        session = _known_session(running, target)
        return session.tickets.leave(ticket) if session else None

    with contextlib.suppress(RuntimeError):
        return running.call(leave)
    return None


def _answer(future: concurrent.futures.Future[T]) -> T:
    while True:
        try:
            return future.result(_SLICE_SECONDS)
        except concurrent.futures.TimeoutError:
            if future.done():
                return future.result()


def _result(running: Engine, work: Coroutine[Any, Any, T]) -> T:
    future = running.submit(work)
    try:
        return _answer(future)
    except concurrent.futures.CancelledError:
        if running.at_exit:
            # The program has ended, and this is one of its daemon threads: an error would only be printed at exit.
            threading.Event().wait()
        raise
    except BaseException:
        # The engine must not go on with work whose answer nobody reads.
        future.cancel()
        raise


def acquire(target: Target, request: Request, hooks: Hooks) -> Held:
    """Return a grant, waiting for it as long as `request.timeout` allows.

    Raises:
        SlotsError: see `Session.ask` and `Tickets.wait`.
    """
    running = engine()
    try:
        answer = _result(running, _ask(running, target, request))
        if isinstance(answer, Waiting):
            hooks.waiting(answer.reason)
            answer = _result(running, _wait(running, target, request.id))
            hooks.resumed()
        return answer
    # Race 17: an interrupt may come after the grant's commit, so a ticket in any state is ended.
    except BaseException:
        _forget(running, target, request.id)
        raise


async def acquire_async(target: Target, request: Request, hooks: Hooks) -> Held:
    """Return a grant without blocking the caller's event loop; otherwise as `acquire`."""
    running = engine()
    # Hooks run here, in the caller's context, which a coroutine of the engine does not have.
    try:
        answer = await asyncio.wrap_future(running.submit(_ask(running, target, request)))
        if isinstance(answer, Waiting):
            hooks.waiting(answer.reason)
            answer = await asyncio.wrap_future(running.submit(_wait(running, target, request.id)))
            hooks.resumed()
        return answer
    except BaseException:
        _forget(running, target, request.id)
        raise


def release(target: Target, grant: str) -> str | None:
    """Give a grant back; returns once its cells are free and the next ticket is woken.

    Returns:
        Name of a limit whose slots others could take for a while although the grant held them; else `None`.
    """
    running = running_engine()
    leaving = _forget(running, target, grant)
    # The collector may end a generator in the engine's own thread, in the middle of anything: it must not wait there.
    return _answer(leaving) if running and leaving and not running.is_current else None


async def release_async(target: Target, grant: str) -> str | None:
    """Give a grant back as `release` does; shielded, so that a cancelled task gives back too."""
    leaving = _forget(running_engine(), target, grant)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None  # a coroutine that is closed after its loop has ended can wait for nothing any more
    return await asyncio.shield(asyncio.wrap_future(leaving, loop=loop)) if leaving else None


def note_command(target: Target, pid: int) -> None:
    """Note the one command that this process runs under its grants; one that has ended already is not noted.

    Raises:
        LedgerUnreadable: it is not noted.
    """

    async def note() -> None:
        ledger = session_at(running, target).ledger
        ledger.transact(lambda tx: usage.note_command(tx, pid, started))

    running = engine()
    with contextlib.suppress(psutil.Error):
        started = psutil.Process(pid).create_time()
        _result(running, note())


def note_serving(target: Target, pid: int, started: float, grant: str) -> None:
    """Start noting which grant a child process serves from now on, empty for none, and wait for nothing."""
    running = running_engine()
    session = _known_session(running, target) if running else None
    if running is not None and session is not None:
        note = partial(session.ledger.transact, lambda tx: usage.note_serving(tx, pid, started, grant))
        with contextlib.suppress(RuntimeError):  # the engine has just ended, and with it the grant
            failed = "the grant that a process serves is not noted: %s"
            running.call(note).add_done_callback(partial(_log_failure, logging.DEBUG, failed))


def was_ended(target: Target, grant: str) -> bool:
    """Return True if the process of a grant was asked to end because it used more than the grant declared."""
    return _looked(target, lambda session: session.ledger.read(lambda tx: usage.was_ended(tx, grant)), otherwise=False)


async def _complete(running: Engine, target: Target, request: Request) -> Held:
    answer = await _ask(running, target, request)
    return await _wait(running, target, request.id) if isinstance(answer, Waiting) else answer


def begin(target: Target, request: Request) -> concurrent.futures.Future[Held]:
    """Start a request and return its grant to come; `forget` ends it in any state.

    Callbacks of the future run in the engine's thread and must not block.
    """
    running = engine()
    return running.submit(_complete(running, target, request))


def forget(target: Target, ticket: str) -> None:
    """Start ending a request or its grant, whatever state it is in, and wait for nothing."""
    leaving = _forget(running_engine(), target, ticket)
    if leaving is not None:
        failed = "a grant could not be given back yet and is tried again: %s"
        leaving.add_done_callback(partial(_log_failure, logging.WARNING, failed))


def _log_failure(level: int, message: str, ended: concurrent.futures.Future[Any]) -> None:
    if not ended.cancelled() and ended.exception() is not None:
        _log.log(level, message, ended.exception())


def may_go_on(target: Target, grant: str, ticket: str | None) -> bool:
    """Return True if a grant may serve another task of its shape; see `Tickets.may_go_on`."""
    return _looked(target, lambda session: session.tickets.may_go_on(grant, ticket), otherwise=False)


def reason(target: Target, ticket: str) -> str:
    """Return the reason for which a request waits now; empty if it does not."""
    return _looked(target, lambda session: session.tickets.reason(ticket), otherwise="")


def _looked(target: Target, look: Callable[[Session], T], otherwise: T) -> T:
    running = running_engine()
    session = _known_session(running, target) if running else None
    if running is None or session is None:
        return otherwise
    return look(session) if running.is_current else _answer(running.call(partial(look, session)))


async def _descriptor(running: Engine, target: Target) -> int:
    return session_at(running, target).descriptor


def owner_descriptor(target: Target) -> int:
    """Return the descriptor of the lock that proves this process alive; a child that inherits it keeps the grants."""
    running = engine()
    return _result(running, _descriptor(running, target))

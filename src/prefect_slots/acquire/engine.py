"""The engine: one thread with an event loop per process, in which all use of ledger and server happens.

Callers may be interrupted anywhere (Ctrl-C, a task's timeout, cancellation); the engine is not. A forked child has
none of its parent's engine and starts its own when it needs one. At exit the engine ends all grants that are left.
"""

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
# `docker stop` kills a process 10 s after it asked it to end; the next process of the machine reaps the rest.
EXIT_SECONDS = 10.0


class Engine:
    """An event loop in a daemon thread.

    Attributes:
        parts: Sessions that live in the loop, by target.
        at_exit: True once it ends because the program does.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.at_exit = False
        self.parts: dict[str, Any] = {}
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="prefect-slots", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # A signal taken by this thread would not interrupt the main thread's wait for one.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start `work` in the engine's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Callable[[], T]) -> concurrent.futures.Future[T]:
        """Have `work`, which waits for nothing, called in the engine's loop."""
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()
        # A round later: a coroutine submitted before begins a round later too, and its end must not overtake it.
        self._loop.call_soon_threadsafe(self._loop.call_soon, _answering, work, answer)
        return answer

    def later(self, seconds: float, work: Callable[[], None]) -> concurrent.futures.Future[None]:
        """Have `work`, which waits for nothing, called in the engine's thread after some time; it may be cancelled."""

        async def wait() -> None:
            await asyncio.sleep(seconds)
            work()

        return self.submit(wait())

    @property
    def is_current(self) -> bool:
        """True if the calling code runs in the engine's own thread, which must not wait for itself."""
        return threading.current_thread() is self._thread

    def at_close(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Have `closer` awaited before the engine ends."""
        self._closers.append(closer)

    def close(self) -> None:
        """Give everything back and end the thread; waits `EXIT_SECONDS` at most."""
        if self._thread.is_alive():
            # Grants that cannot be ended in time stay in the ledger as a dead owner's, and the next process reaps it.
            try:
                with contextlib.suppress(TimeoutError, concurrent.futures.TimeoutError):
                    self.submit(self._finish()).result(EXIT_SECONDS)
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join(1.0)
                if not self._thread.is_alive():
                    self._loop.close()

    async def _finish(self) -> None:
        # Each takes a moment at the server, and there is one time limit for all.
        ended = await asyncio.gather(*(closer() for closer in self._closers), return_exceptions=True)
        # Requests that still wait end with the engine: their callers get a cancellation instead of waiting for ever.
        running = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_asyncgens()
        for failed in ended:
            if failed is not None:
                raise failed


def _answering(work: Callable[[], T], answer: concurrent.futures.Future[T]) -> None:
    try:
        answer.set_result(work())
    except BaseException as error:
        answer.set_exception(error)


_engine: Engine | None = None
_inherited: list[Engine] = []
_starting = threading.Lock()


def engine() -> Engine:
    """Return this process's engine, starting it on first use."""
    global _engine
    with _starting:
        if _engine is None:
            _engine = Engine()
            atexit.register(_close_at_exit)
        return _engine


def running_engine() -> Engine | None:
    """Return this process's engine if it runs: one that has ended has given everything back."""
    return _engine


def close_engine() -> None:
    """End this process's engine, if it has one; the next use starts another."""
    global _engine
    with _starting:
        ended, _engine = _engine, None
    if ended is not None:
        atexit.unregister(_close_at_exit)
        ended.close()


def _close_at_exit() -> None:
    if _engine is not None:
        _engine.at_exit = True
    close_engine()


def _after_fork() -> None:
    # The parent's loop, sockets, connection and lock are not the child's: using them would steal its datagrams and
    # corrupt its transactions, and so would closing them, which letting go of the last reference does.
    global _engine, _starting
    if _engine is not None:
        _inherited.append(_engine)
    _engine = None
    _starting = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)

"""Worker processes that hold something when told to, and say when they got it and when they gave it back.

They are forked from a server process that has imported everything, so that neither starting nor importing is measured,
and each is told to go through a pipe of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event, Semaphore
from typing import Any, Final

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["benchmarks.preloaded"])
_END_SECONDS: Final = 20.0


def clock() -> float:
    """Return seconds on the clock that all processes of this machine share."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What to hold, and for how long.

    Attributes:
        needs: `requires(**needs)`.
        limits: Prefect's limits, one `concurrency` block inside the other, each with what it occupies.
        lease_seconds: How long Prefect's leases last; renewed while held.
        seconds: How long to hold.
        after: How long to wait before asking.

    With neither `needs` nor `limits`, the crew's semaphore is held.
    """

    needs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    limits: Sequence[tuple[str, int]] = ()
    lease_seconds: float = 300.0
    seconds: float = 0.0
    after: float = 0.0


@dataclass(frozen=True)
class Started:
    """Somebody holds what it asked for."""

    at: float


@dataclass(frozen=True)
class Turn:
    """One holding from end to end; times on `clock`."""

    asked: float
    started: float
    ended: float
    left: float


@dataclass(frozen=True)
class Failed:
    """A worker's traceback."""

    text: str


@dataclass(frozen=True)
class Worker:
    """One process and the pipe to it."""

    process: BaseProcess
    pipe: Connection

    def ask(self, ask: Ask) -> None:
        """Tell it to hold something; `Started` and `Turn` follow."""
        self.pipe.send(ask)

    def reply(self) -> Started | Turn:
        """Return what it says next.

        Raises:
            RuntimeError: it failed.
        """
        said = self.pipe.recv()
        if isinstance(said, Failed):
            raise RuntimeError(f"a worker failed:\n{said.text}")
        return said

    def turn(self, ask: Ask) -> Turn:
        """Hold something alone and return when it has been given back."""
        self.ask(ask)
        while not isinstance(said := self.reply(), Turn):
            pass
        return said


class Crew:
    """Worker processes that share one semaphore, and one event that ends every holding early."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._semaphore = _CONTEXT.Semaphore(1)
        self.over = _CONTEXT.Event()
        self.workers: list[Worker] = []

    def hire(self, number: int, env: Mapping[str, str]) -> list[Worker]:
        """Start processes with these further environment variables."""
        hired: list[Worker] = []
        for _ in range(number):
            ours, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_work, args=(theirs, dict(env), self._semaphore, self.over), daemon=True)
            process.start()
            theirs.close()
            hired.append(Worker(process, ours))
            self._stack.callback(_end, hired[-1])
        self.workers += hired
        return hired

    def warm_up(self, ask: Ask) -> None:
        """Let each worker hold something once, so that what is done once per process is not measured."""
        for worker in self.workers:
            worker.turn(ask)


@contextmanager
def crew() -> Generator[Crew]:
    """Make a crew, and end every process of it."""
    with ExitStack() as stack:
        yield Crew(stack)


def _end(worker: Worker) -> None:
    try:
        worker.pipe.send(None)
    except OSError:
        pass  # killed
    worker.process.join(_END_SECONDS)
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


# In the worker


def _work(pipe: Connection, env: Mapping[str, str], semaphore: Semaphore, over: Event) -> None:
    os.environ.update(env)
    try:
        while (ask := pipe.recv()) is not None:
            over.wait(ask.after)
            asked = clock()
            with _held(ask, semaphore):
                started = clock()
                pipe.send(Started(started))
                over.wait(ask.seconds)
                ended = clock()
            pipe.send(Turn(asked, started, ended, clock()))
    except (EOFError, BrokenPipeError):
        pass
    except BaseException:
        pipe.send(Failed(traceback.format_exc()))
        raise


def _held(ask: Ask, semaphore: Semaphore) -> AbstractContextManager[Any]:
    if ask.needs:
        from prefect_slots import requires

        return requires(**ask.needs)
    return _concurrency(ask) if ask.limits else semaphore


@contextmanager
def _concurrency(ask: Ask) -> Generator[None]:
    from prefect.concurrency.sync import concurrency

    with ExitStack() as stack:
        for name, slots in ask.limits:
            stack.enter_context(concurrency(name, occupy=slots, lease_duration=ask.lease_seconds, strict=True))
        yield

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
from multiprocessing.synchronize import Semaphore
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["benchmarks.preloaded"])


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
        before: How long to work before asking.
        after: How long to work after giving back.

    With neither `needs` nor `limits`, the crew's semaphore is held.
    """

    needs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    limits: Sequence[tuple[str, int]] = ()
    lease_seconds: float = 300.0
    seconds: float = 0.0
    before: float = 0.0
    after: float = 0.0


@dataclass(frozen=True)
class Enough:
    """Told to a worker: end what you hold, or will hold next, at once."""


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
    done: float


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

    def stop(self) -> None:
        """Let it end its turn as soon as it has its slot; `Turn` follows."""
        self.pipe.send(Enough())

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
    """Worker processes that share one semaphore."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._semaphore = _CONTEXT.Semaphore(1)

    def hire(self, number: int, env: Mapping[str, str]) -> list[Worker]:
        """Start processes with these further environment variables."""
        hired: list[Worker] = []
        for _ in range(number):
            ours, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_work, args=(theirs, dict(env), self._semaphore), daemon=True)
            process.start()
            theirs.close()
            hired.append(Worker(process, ours))
            self._stack.callback(_end, hired[-1])
        return hired


@contextmanager
def crew() -> Generator[Crew]:
    """Make a crew, and end every process of it."""
    with ExitStack() as stack:
        yield Crew(stack)


def _end(worker: Worker) -> None:
    # What it did at its end would go on while others are measured.
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


# In the worker


def _work(pipe: Connection, env: Mapping[str, str], semaphore: Semaphore) -> None:
    os.environ.update(env)
    try:
        while ask := pipe.recv():
            if isinstance(ask, Enough):
                continue  # it came when the turn was over
            pipe.poll(ask.before)
            asked = clock()
            with _held(ask, semaphore):
                started = clock()
                pipe.send(Started(started))
                pipe.poll(ask.seconds)
                ended = clock()
            left = clock()
            pipe.poll(ask.after)
            pipe.send(Turn(asked, started, ended, left, clock()))
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

"""Processes on a machine with a server, forked from one that has imported Prefect: cheap to kill by the dozen."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Literal

import prefect.client.orchestration  # pyright: ignore[reportUnusedImport] # noqa: F401  (what every child needs)
from prefect.settings import PREFECT_API_URL, temporary_settings
from tests.support.boxes import Box

import prefect_slots.limits.gateway  # pyright: ignore[reportUnusedImport] # noqa: F401
from prefect_slots import requires
from prefect_slots.acquire.engine import close_engine
from prefect_slots.ledger.failpoints import Point, install

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])

Needs = dict[str, Any]
Stage = Literal["asking", "leaving"]


class Forked:
    """A process that asks for something, holds it until told to leave, and ends.

    Args:
        box: Its machine.
        needs: What it asks for.
        dies_at: Where it kills itself: at which point, and at the how many-th time it comes there.
        counting: Whether the times are counted from the start, or from when it is told to leave.

    Attributes:
        points: Every point it came to, in order, once it has ended by itself.
    """

    def __init__(
        self, box: Box, needs: Needs, *, dies_at: tuple[Point | None, int] | None = None, counting: Stage = "asking"
    ) -> None:
        self.points: list[Point] = []
        self._pipe, theirs = _context.Pipe()
        self.process = _context.Process(target=_live, args=(theirs, box.env, box.url, needs, dies_at, counting))
        self.process.start()
        theirs.close()

    def holds(self) -> bool:
        """Wait until it holds what it asked for, or has died before."""
        return self._hears() == "holds"

    def leave(self) -> None:
        """Tell it to leave."""
        # It may be dead already: what it does beside its grant passes the named points too.
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send("leave")

    def ended(self) -> int:
        """Wait for its end and return its exit code: below zero, the signal that killed it."""
        heard = self._hears()
        self.points = heard if isinstance(heard, list) else []
        self.process.join(30)
        code = self.process.exitcode
        assert code is not None, "it lives on"
        self._pipe.close()
        self.process.close()
        return code

    def dies(self) -> int:
        """Let it go through its whole life; return the exit code."""
        if self.holds():
            self.leave()
        return self.ended()

    def kill(self) -> int:
        """Kill it as nothing can be caught."""
        self.process.kill()
        return self.ended()

    def _hears(self) -> Any:
        assert self._pipe.poll(60), "it says nothing"
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            return None


def _live(
    pipe: Connection,
    env: dict[str, str],
    url: str,
    needs: Needs,
    dies_at: tuple[Point | None, int] | None,
    counting: Stage,
) -> None:
    os.environ.update(env)
    points: list[Point] = []
    hook = _killer(points, *(dies_at or (None, 0)))
    with temporary_settings({PREFECT_API_URL: url}):
        if counting == "asking":
            install(hook)
        with requires(**needs):
            pipe.send("holds")
            pipe.recv()
            if counting == "leaving":
                install(hook)
        close_engine()
    pipe.send(points)


def _killer(points: list[Point], deadly: Point | None, nth: int) -> Callable[[Point], None]:
    """Return a hook that kills this process at the nth of all points, or the nth time at the `deadly` one."""

    def reached(point: Point) -> None:
        points.append(point)
        come = len(points) if deadly is None else points.count(deadly)
        if come == nth and deadly in (None, point):
            os.kill(os.getpid(), signal.SIGKILL)

    return reached

"""An event loop whose time passes only while nothing else happens: minutes of waiting take milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualTime:
    """A clock that stands still until somebody waits; call it for the seconds that it shows."""

    def __init__(self) -> None:
        # Not zero, at which a time that was never set would look like now.
        self._now = 10_000.0

    def __call__(self) -> float:
        """Return the seconds that it shows."""
        return self._now

    def pass_by(self, seconds: float) -> None:
        """Let time pass at once."""
        self._now += seconds

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run `main` in a loop of its own on this clock.

        Raises:
            AssertionError: if all tasks wait and nothing will ever wake them.
        """

        def make_loop() -> asyncio.AbstractEventLoop:
            loop = asyncio.SelectorEventLoop(_Jumping(self))
            loop.time = self
            return loop

        with asyncio.Runner(loop_factory=make_loop) as runner:
            return runner.run(main)


class _Jumping(selectors.DefaultSelector):
    """A selector that lets the clock jump where another would wait."""

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        self._time = time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            assert timeout is not None, "everything waits, and nothing will ever happen"
            self._time.pass_by(max(0.0, timeout))
        return found

"""Waiting for a condition in tests: poll with a deadline, never sleep and hope."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


def until(condition: Callable[[], bool], seconds: float = 20.0, *, what: str = "the condition") -> None:
    """Return as soon as `condition()` is true.

    Raises:
        AssertionError: if it is not true within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds:g} s")
        time.sleep(0.02)


async def until_async(
    condition: Callable[[], Awaitable[bool]], seconds: float = 20.0, *, what: str = "the condition"
) -> None:
    """As `until`, for a condition that is asked of a server."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds:g} s")
        await asyncio.sleep(0.02)

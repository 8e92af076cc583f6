"""Work that may hang, in a thread that nobody has to wait for: not the loop, and not the end of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from prefect_slots.system.threads import beside

T = TypeVar("T")


async def aside(work: Callable[[], T], name: str) -> T:
    """Return what `work` returns. Its thread is a daemon: a driver that hangs keeps no process from ending."""
    return await asyncio.wrap_future(beside(work, name))

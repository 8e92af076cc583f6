"""Failpoints: the moments at which a crash leaves work to other processes.

Tests kill a process at each of them; without such a test installed, reaching one costs a comparison.
"""

from collections.abc import Callable
from enum import StrEnum


class Point(StrEnum):
    """A moment between two writes, or between a write and a call. A crash there must lose nothing."""

    IN_TRANSACTION = "in transaction"  # everything is written, nothing committed
    COMMITTED = "committed"  # and nobody woken yet
    GRANTED = "granted"  # cells are ours, nothing is asked of the server
    INTENT_WRITTEN = "intent written"  # the server is about to be asked
    LEASE_TAKEN = "lease taken"  # the server has answered, the lease is not written
    LEASE_WRITTEN = "lease written"
    CELLS_FREED = "cells freed"  # leases are to be released, nothing is sent
    LEASE_RELEASED = "lease released"  # the server has answered, the row is still there
    LATCHED = "latched"  # a repair has begun, nothing is read
    REPAIR_WRITTEN = "repair written"  # the decrement is about to be sent
    REPAIRED = "repaired"  # the server has answered, the row is still there


# One hook for the process: without a test installed, reaching a point costs one comparison.
_hook: Callable[[Point], None] | None = None


def reached(point: Point) -> None:
    """Report that `point` is reached."""
    if _hook is not None:
        _hook(point)


def install(hook: Callable[[Point], None] | None) -> None:
    """Call `hook` at every point from now on, in the thread that reaches it; `None` removes it."""
    global _hook
    _hook = hook

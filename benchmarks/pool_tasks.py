"""What the process pools are given to do by `pool`: importable by name, as a program's tasks are."""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple


class Held(NamedTuple):
    """When a task began and ended, on the clock that all processes of this machine share, and where it ran."""

    began: float
    ended: float
    pid: int


def nothing(item: int) -> int:
    """Do nothing."""
    return item


def hold(seconds: float) -> Held:
    """Take some time."""
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    time.sleep(seconds)
    return Held(began, time.clock_gettime(time.CLOCK_BOOTTIME), os.getpid())


def send_back(array: Any) -> Any:
    """Return an array of which every page has been read."""
    read(array)
    return array


def read(array: Any) -> float:
    """Read a number of every page of an array: one that was only mapped has not arrived."""
    return float(array[::512].sum())

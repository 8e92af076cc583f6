"""The boot of this machine, the time since, and pauses that differ between processes."""

import time
from pathlib import Path
from random import SystemRandom

import psutil

from prefect_slots.system.sysfs import text_of

# Not the `random` module's shared generator: a program that seeds it must get the same numbers in spite of our threads,
# and children forked from one parent must not all pause alike.
_SYSTEM = SystemRandom()


def between(least: float, most: float) -> float:
    """Return a random number from `least` to `most`, all equally likely."""
    return _SYSTEM.uniform(least, most)


def around(seconds: float) -> float:
    """Return `seconds` with jitter: a random number between half and one and a half times that."""
    return seconds * between(0.5, 1.5)


def boot_id() -> str:
    """Return the id of this boot of the machine: every boot has another one."""
    return text_of(Path("/proc/sys/kernel/random/boot_id")) or f"{psutil.boot_time():.0f}"


def boot_clock() -> float:
    """Return a time in seconds, equal in all processes of the machine, that also counts its sleep.

    A monotonic clock stands still in suspend, and a wall clock may be set: deadlines of several processes need neither.
    """
    # Systems other than Linux have the monotonic clock only.
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)

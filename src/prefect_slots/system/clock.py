"""The boot of this machine, the time since, and pauses that differ between processes."""

import time
from pathlib import Path
from random import SystemRandom
from typing import Final

import psutil

from prefect_slots.system.sysfs import text_of

# Not the `random` module's shared generator: a program that seeds it must get the same numbers in spite of our threads,
# and children forked from one parent must not all pause alike.
_SYSTEM: Final = SystemRandom()


def between(least: float, most: float) -> float:
    """Return a number from `least` to `most`, each as likely."""
    return _SYSTEM.uniform(least, most)


def around(seconds: float) -> float:
    """Return between half and one and a half times `seconds`."""
    return seconds * between(0.5, 1.5)


def boot_id() -> str:
    """Return what differs after every boot of this machine."""
    return text_of(Path("/proc/sys/kernel/random/boot_id")) or f"{psutil.boot_time():.0f}"


def boot_clock() -> float:
    """Return seconds that also pass while the machine sleeps, equal in all its processes."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)

"""Chance of our own, for pauses that should differ between processes.

Not the `random` module's shared generator: a program that seeds it must get the same numbers whatever our threads do,
and children forked from one parent must not all pause alike.
"""

from __future__ import annotations

from random import SystemRandom
from typing import Final

_SYSTEM: Final = SystemRandom()


def between(least: float, most: float) -> float:
    """Return a number from `least` to `most`, each as likely."""
    return _SYSTEM.uniform(least, most)


def around(seconds: float) -> float:
    """Return between half and one and a half times `seconds`."""
    return seconds * between(0.5, 1.5)

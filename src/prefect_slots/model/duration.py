"""How long a task says it will take, rounded up: tasks whose words differ little then stand in one line."""

from __future__ import annotations

import math
from typing import Final

_STEPS: Final = (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0, 10.0)
"""The preferred numbers R10 of ISO 3: ten a decade, so that nobody's word is stretched by more than 28 %."""


def rounded_up(seconds: float) -> float:
    """Return the next preferred number of seconds that is not below `seconds`, which is above zero.

    A decision costs more the more kinds of tickets wait, and a program that says another number for each item would
    make each a kind of its own.
    """
    decade = 10.0 ** math.floor(math.log10(seconds))
    return next((step * decade for step in _STEPS if seconds <= step * decade), 10 * decade)

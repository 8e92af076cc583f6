"""Many measured times to the few numbers that are told of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from benchmarks.case import Measured


def median(values: Sequence[float]) -> float:
    """Return the middle value, the mean of the middle two where there is none."""
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    """Return the smallest measured value that at least 95 % of all do not exceed; with under 20, that is the largest.

    Raises:
        ValueError: of nothing.
    """
    if not values:
        raise ValueError("nothing was measured")
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def summary(case: str, peer: str, seconds: Sequence[float]) -> list[Measured]:
    """Return median, 95th percentile and maximum of times in seconds, in milliseconds."""
    numbers = {"median": median(seconds), "p95": p95(seconds), "max": max(seconds)}
    return [
        Measured(case=case, peer=peer, metric=metric, value=value * 1000, unit="ms")
        for metric, value in numbers.items()
    ]

"""One measured number, and the registry of benchmarks that measure some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One number; times are in milliseconds (`unit` is `"ms"`), comparisons are `"ratio"`.

    Attributes:
        case: What was done.
        peer: Who did it: `"prefect-slots"` or what it is compared with.
        metric: Which number of it: `"median"`, `"ours / peer"`.
    """

    case: str
    peer: str
    metric: str
    value: float
    unit: str


Benchmark = Callable[[bool], list[Measured]]
"""Measures; told whether to be quick about it."""

NAMES: Final = ("startup",)


def find(name: str) -> Benchmark:
    """Return a benchmark by name: `measure` of the module of that name."""
    return import_module(f"benchmarks.{name}").measure

"""What a benchmark yields, what it is held to, and the registry of benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

OURS = "ours"
PREFECT = "prefect"
RAW = "raw"
BOUND = "bound"
# Nothing is told to anybody, and no key is left in the user's home.
RAY_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_DEDUP_LOGS": "0"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One number.

    Attributes:
        case: What was done.
        peer: Who did it: `ours`, `prefect` (what stock Prefect offers for it), `raw` (one bare HTTP request), `bound`
            (what nothing can be better than), another library or a model of a scheduler by its name.
        metric: Which number of it: `median`, `p95`, `max`, `mean`, `per_grant`, `processes` or `ratio`.
        unit: `ms` for times; `requests`, `messages`, `MiB`, `/s` (a second) or `ratio` otherwise.
    """

    case: str
    peer: str
    metric: str
    value: float
    unit: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What a number is held to; exactly one of `at_most` and `at_least` is set."""

    text: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool:
        """Whether the number is good enough."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return self.at_least is not None and self.value >= self.at_least


class Run(Protocol):
    """One run of a benchmark, as the benchmark sees it."""

    @property
    def quick(self) -> bool:
        """Whether to be done in under a minute."""
        ...

    def expect(self, steps: int) -> None:
        """Say how many steps there will be."""

    def step(self, text: str) -> None:
        """Say what begins now."""


class Benchmark(Protocol):
    """A module of this package."""

    measure: Callable[[Run], list[Measured]]
    bars: Callable[[Sequence[Measured]], list[Bar]]


NAMES = (
    "startup", "handoff", "uncontended", "server_load", "recovery", "makespan", "packing", "scale", "fleet", "runner",
    "pool",
)  # fmt: skip


def find(name: str) -> Benchmark:
    """Return a benchmark by name."""
    return cast("Benchmark", import_module(f"benchmarks.{name}"))


def pick(measured: Iterable[Measured], case: str, peer: str, metric: str) -> float | None:
    """Return one number, or `None` where a quick run has left it out."""
    for each in measured:
        if (each.case, each.peer, each.metric) == (case, peer, metric):
            return each.value
    return None

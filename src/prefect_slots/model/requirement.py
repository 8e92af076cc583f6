"""Requirement of one call: a canonical, sorted set of demands on resources, with alternatives.

`declare` converts the keywords of `requires(...)` to a `Requirement`. Equal needs give equal requirements in any
spelling, so that their tickets stand in one queue. The resources of a machine are not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeVar

from prefect_slots.errors import InvalidRequirement
from prefect_slots.model.amount import CORES, MIB, SEATS, Exclusive, count_asked, format_amount, memory_asked
from prefect_slots.model.gpu_filter import GpuFilter
from prefect_slots.model.resource import CPUS, GPU_MEM, LICENSE_PREFIX, MEM, check_resource_name, license_resource
from prefect_slots.model.terms import invalid

T = TypeVar("T")

ANY_GPU = GpuFilter()
# Millionths are exact for the shares that people write (0.25, 0.07), and integers compare alike in every process.
WHOLE = 1_000_000


@dataclass(frozen=True, order=True)
class Share:
    """A part of one cell's nominal capacity, in millionths; `WHOLE` is the whole cell.

    Parts are rounded down, so that four quarters fit on a GPU whose memory is no multiple of four.
    """

    millionths: int

    def __post_init__(self) -> None:
        if not 0 < self.millionths <= WHOLE:
            raise ValueError(f"a share of a cell lies above 0 and up to {WHOLE} millionths, not {self.millionths}")

    def of(self, capacity: int) -> int:
        """Return this share of `capacity`, rounded down but never below one unit."""
        return max(1, capacity * self.millionths // WHOLE)


@dataclass(frozen=True, kw_only=True)
class Demand:
    """`amount` on each of `cells` different cells of `resource`; `gpu` tells which GPUs will do."""

    resource: str
    amount: int | Share
    cells: int = 1
    gpu: GpuFilter = ANY_GPU

    def __post_init__(self) -> None:
        if self.cells < 1 or (isinstance(self.amount, int) and self.amount < 1):
            raise ValueError(f"a demand is for at least one unit on at least one cell: {self}")

    def on(self, capacity: int) -> int:
        """Return the units that this demand takes on a cell of that nominal capacity."""
        # A part of an exclusive cell is not to be had: its holder is charged for all of it.
        amount = self.amount.of(capacity) if isinstance(self.amount, Share) else self.amount
        return max(amount, int(capacity)) if isinstance(capacity, Exclusive) else amount

    def describe(self) -> str:
        """Return a text for people: `"16GiB of gpu_mem on one card"`, `"1 seat of license.matlab"`."""
        place = f"{self.gpu.describe()} card".strip() if self.resource == GPU_MEM else "cell"
        where = f"each of {self.cells} {place}s" if self.cells > 1 else f"one {place}"
        if isinstance(self.amount, Share):
            if self.amount.millionths == WHOLE:
                return f"{self.cells} whole {place}{'s' if self.cells > 1 else ''} of {self.resource}"
            return f"{self.amount.millionths / 10_000:g} % of {self.resource} on {where}"
        if self.resource in (GPU_MEM, MEM):
            text = f"{format_amount(self.amount, MIB)} of {self.resource}"
        elif self.resource.startswith(LICENSE_PREFIX):
            text = f"{self.amount} {'seat' if self.amount == 1 else 'seats'} of {self.resource}"
        else:
            text = f"{self.amount} of {self.resource}"
        return f"{text} on {where}" if self.cells > 1 or self.resource == GPU_MEM else text


@dataclass(frozen=True)
class Requirement:
    """Demands on distinct resources, sorted by resource name; at least one.

    Attributes:
        others: Alternatives after the first, in order of preference; these have no others themselves.
    """

    demands: tuple[Demand, ...]
    others: tuple[Requirement, ...] = ()

    def __post_init__(self) -> None:
        if any(other.others for other in self.others):
            raise ValueError("an alternative has no alternatives itself")
        names = [demand.resource for demand in self.demands]
        if not names or names != sorted(set(names)):
            raise ValueError(f"demands must be sorted, distinct and at least one: {names}")

    @classmethod
    def of(cls, demands: Iterable[Demand]) -> Requirement:
        """Return the requirement of these demands in any order."""
        return cls(tuple(sorted(demands, key=lambda demand: demand.resource)))

    @classmethod
    def any_of(cls, alternatives: Sequence[Requirement]) -> Requirement:
        """Return the requirement of one of these, in order of preference; at least one is given."""
        first, *others = alternatives
        return cls(first.demands, tuple(others))

    @cached_property
    def alternatives(self) -> tuple[Requirement, ...]:
        """The alternatives in order of preference, each without alternatives."""
        return (Requirement(self.demands), *self.others) if self.others else (self,)

    @cached_property
    def all_demands(self) -> tuple[Demand, ...]:
        """The demands of all alternatives."""
        return tuple(demand for alternative in self.alternatives for demand in alternative.demands)

    @cached_property
    def resources(self) -> tuple[str, ...]:
        """Names of the resources of all alternatives, sorted."""
        return tuple(sorted({demand.resource for demand in self.all_demands}))

    def describe(self) -> str:
        """Return a text for people, demands joined by ` and `, alternatives by ` or `."""
        return " or ".join(
            " and ".join(demand.describe() for demand in alternative.demands) for alternative in self.alternatives
        )

    def to_data(self) -> list[Any]:
        """Return plain lists for JSON; `from_data` reads them back."""
        if self.others:
            return [{"any_of": [alternative.to_data() for alternative in self.alternatives]}]
        return [_demand_data(each) for each in self.demands]

    @classmethod
    def from_data(cls, data: object) -> Requirement:
        """Return the requirement of data that `to_data` returned.

        Raises:
            ValueError: if the data are not a requirement.
        """
        match data:
            case [{"any_of": [_, *_] as alternatives}]:
                return cls.any_of([cls.from_data(alternative) for alternative in alternatives])
            case [*demands]:
                return cls(tuple(map(_read_demand, demands)))
            case _:
                raise ValueError(f"not a list of demands: {data!r}")


def _demand_data(demand: Demand) -> list[Any]:
    amount, gpu = demand.amount, demand.gpu
    data = amount if isinstance(amount, int) else {"millionths": amount.millionths}
    return [demand.resource, data, demand.cells, *([gpu.name, gpu.capability] if gpu else [])]


def _read_demand(data: object) -> Demand:
    match data:
        case [str(resource), amount, int(cells), str(name), str(capability)]:
            return replace(_read_demand([resource, amount, cells]), gpu=GpuFilter(name, capability))
        case [str(resource), {"millionths": int(millionths)}, int(cells)]:
            return Demand(resource=resource, amount=Share(millionths), cells=cells)
        # JSON's `true` is an `int` in Python.
        case [str(resource), int(amount), int(cells)] if not isinstance(amount, bool):
            return Demand(resource=resource, amount=amount, cells=cells)
        case _:
            raise ValueError(f"not a demand: {data!r}")


def _checked(key: str, value: object, read: Callable[..., T], *args: object) -> T:
    try:
        return read(value, *args)
    except ValueError as error:
        raise invalid(key, value, str(error)) from None


def _gpu_demand(gpu_mem: object, gpus: object) -> Demand:
    if isinstance(gpus, float):
        if not math.isfinite(gpus) or gpus <= 0 or (gpus > 1 and not gpus.is_integer()):
            raise invalid("gpus", gpus, "a whole number of cards, or a part of one card above 0 and below 1")
        if gpus < 1:
            if gpu_mem is not None:
                raise invalid("gpus", gpus, "a part of a card already says how much memory; leave gpu_mem out")
            # By the decimal digits: in binary, 0.07 is a little more than seven hundredths.
            return Demand(resource=GPU_MEM, amount=Share(max(1, math.floor(Fraction(repr(float(gpus))) * WHOLE))))
        gpus = int(gpus)
    cells = 1 if gpus is None else _checked("gpus", gpus, count_asked, "cards")
    amount: int | Share = Share(WHOLE) if gpu_mem is None else _checked("gpu_mem", gpu_mem, memory_asked)
    return Demand(resource=GPU_MEM, amount=amount, cells=cells)


def _gpu_filter(name: object, capability: object) -> GpuFilter:
    for key, value in (("gpu", name), ("gpu_capability", capability)):
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise invalid(key, value, 'a text, such as gpu="H100|A100" or gpu_capability=">=8.0"')
    # In one spelling each, so that equal needs stand in one queue.
    names = _checked("gpu", name, lambda text: GpuFilter(name=" ".join(text.split()))).name if name else ""
    return _checked("gpu_capability", capability or "", lambda text: GpuFilter(names, "".join(text.split())))


def _license_demands(asked: object) -> Iterable[Demand]:
    counts: list[tuple[Any, Any]]
    if isinstance(asked, Mapping):
        counts = list(asked.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    elif isinstance(asked, (str, list, tuple, set, frozenset)):
        counts = [(name, 1) for name in ([asked] if isinstance(asked, str) else asked)]  # pyright: ignore[reportUnknownVariableType]
    else:
        raise invalid("license", asked, 'a name, a list of names, or a mapping such as {"matlab": 2}')
    for feature, _ in counts:
        if not isinstance(feature, str):
            raise invalid("license", feature, "a license's name is a string")
    # After the check of names: a list or a mapping among them is not hashable.
    if len(dict(counts)) != len(counts):
        raise invalid("license", list(asked), 'a name stands twice; write {"name": 2} for two seats')
    for feature, seats in counts:
        name = _checked("license", feature, license_resource)
        yield Demand(resource=name, amount=_checked(f"license[{feature!r}]", seats, count_asked, SEATS))


def spelled(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the amounts without those that are `None`, and with `licence` under its other spelling, `license`.

    Raises:
        InvalidRequirement: if both spellings are given.
    """
    amounts = {name: amount for name, amount in asked.items() if amount is not None}
    # One name from here on: an amount in common and one of an alternative must meet under it.
    if "licence" in amounts:
        if "license" in amounts:
            reason = "license= and licence= are one argument in two spellings; give one of them"
            raise invalid("licence", amounts["licence"], reason)
        amounts["license"] = amounts.pop("licence")
    return amounts


def declare(
    *,
    gpu_mem: object = None,
    gpus: object = None,
    gpu: object = None,
    gpu_capability: object = None,
    mem: object = None,
    cpus: object = None,
    license: object = None,
    **declared: object,
) -> Requirement:
    """Return the canonical requirement of these amounts.

    Args:
        gpu_mem: Memory per GPU: a number of GiB, or a string with its unit.
        gpus: Number of GPUs (default 1); without `gpu_mem` they are whole GPUs; `0 < gpus < 1` is a part of one GPU.
        gpu: Words of the product names that will do, alternatives joined by `|`: `"H100|A100 80GB"`.
        gpu_capability: Comparisons with the compute capability: `">=8.0"`.
        mem: System memory: a number of GiB, or a string with its unit.
        cpus: Whole number of cores.
        license: `"matlab"`, `["a", "b"]` or `{"matlab": 2}`.
        **declared: Whole numbers of declared resources: `scanner=1`.

    Raises:
        InvalidRequirement: if a value is not an amount, or nothing is asked for. `None` means not asked for.
    """
    demands: list[Demand] = []
    wanted = _gpu_filter(gpu, gpu_capability)
    if gpu_mem is not None or gpus is not None:
        demands.append(replace(_gpu_demand(gpu_mem, gpus), gpu=wanted))
    elif wanted:
        raise invalid("gpu", wanted.describe(), "it says which GPU and not how much of one; add gpus=1 or gpu_mem=8")
    if mem is not None:
        demands.append(Demand(resource=MEM, amount=_checked("mem", mem, memory_asked)))
    if cpus is not None:
        demands.append(Demand(resource=CPUS, amount=_checked("cpus", cpus, count_asked, CORES)))
    if license is not None:
        demands.extend(_license_demands(license))
    for name, amount in declared.items():
        if amount is not None:
            # A mistyped keyword, such as `gpu_memory`, is a valid name; only a machine knows that it has no such thing.
            _checked(name, name, check_resource_name)
            demands.append(Demand(resource=name, amount=_checked(name, amount, count_asked, "units")))
    if not demands:
        reason = "nothing is asked for; name at least one resource, such as gpu_mem=8"
        raise InvalidRequirement(key="", value="", reason=reason)
    return Requirement.of(demands)

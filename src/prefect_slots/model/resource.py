"""Resources of a machine, their cells, and the inventory of one machine.

A cell is one indivisible place; an amount never straddles cells. Identity of a cell is its `key` (a GPU's
UUID), never its position. The numbers that GPUs get in limit names are given out by the ledger, not here.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum

from prefect_slots.model import amount, terms

GPU_MEM = "gpu_mem"
MEM = "mem"
CPUS = "cpus"
LICENSE_PREFIX = "license."

# The words of `requires(...)` that are not resources, and prefixes that mean something in limit names.
RESERVED = frozenset({
    *terms.Terms.__dataclass_fields__, "gpus", "gpu", "gpu_capability", "license", "licence", "any_of",
    "tag", "turn", "resource", "resources",
})  # fmt: skip
_DECLARED = re.compile(r"[a-z][a-z0-9_]*")
_FEATURE = re.compile(r"[A-Za-z0-9._-]+")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")


class Scope(StrEnum):
    """The sharers of a limit: one machine, or all machines of the server."""

    WORKER = "worker"
    FLEET = "fleet"


def check_resource_name(name: str) -> str:
    """Return `name` if a declared resource may be called that.

    Raises:
        ValueError: with the rule for names as its text.
    """
    if name in RESERVED:
        raise ValueError(f"'{name}' has a meaning of its own in requires(); choose another name")
    if not _DECLARED.fullmatch(name):
        raise ValueError("a resource name is lower-case letters, digits and underscores, starting with a letter")
    return name


def check_feature_name(name: str) -> str:
    """Return `name` if a license may be called that (it becomes part of a limit name).

    Raises:
        ValueError: for characters that Prefect refuses in limit names or that our names use as separators.
    """
    if not _FEATURE.fullmatch(name):
        raise ValueError(
            f"licence name '{name}' may hold letters, digits, '.', '_' and '-' only (it becomes part of a limit's name)"
        )
    return name


def license_resource(feature: str) -> str:
    """Return the resource name of a license feature: `"license.matlab"`."""
    return LICENSE_PREFIX + check_feature_name(feature)


def sanitise_machine_name(name: str) -> str:
    """Return `name` with every run of characters outside `[A-Za-z0-9._-]` replaced by one `-`.

    Prefect breaks on limit names with other characters, and looks UUID-shaped names up as ids.

    Raises:
        ValueError: if nothing usable is left.
    """
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")
    if not clean or clean in {".", ".."}:
        raise ValueError(f"machine name '{name}' holds no letter, digit, '.', '_' or '-'")
    return f"host-{clean}" if _UUID.fullmatch(clean) else clean


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One indivisible place of a resource.

    Attributes:
        key: Identity across restarts: a GPU's UUID, else the cell's ordinal as text.
        capacity: Nominal capacity in the resource's unit; `Exclusive` where one holder is all it bears.
        label: For people: a GPU's product name.
        compute_capability: Of an NVIDIA GPU, `"8.6"`; empty if unknown.
        index: Position that `nvidia-smi` shows today, for people only; it may change at every boot.
    """

    key: str
    capacity: int
    label: str = ""
    compute_capability: str = ""
    index: int | None = None

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError("a cell needs a key")
        if not 0 <= self.capacity <= amount.MAX_AMOUNT:
            raise ValueError(f"capacity {self.capacity} of cell {self.key} is outside 0..{amount.MAX_AMOUNT}")


@dataclass(frozen=True, kw_only=True)
class Resource:
    """Something scarce with an integer capacity in a named unit.

    Attributes:
        name: `gpu_mem`, `mem`, `cpus`, `license.matlab` or a declared name.
        unit: `MiB`, `seats`, `cores` or a declared word.
        scope: The sharers of its number.
        cells: The places amounts can lie on; keys are distinct.
        origin: Where the number comes from: `nvml`, `host`, or the file that declares it.
        of_host_memory: Its units are of the host's memory, which `mem` counts too.
        also: Further names that tasks ask for it by: license features that draw on one pool of seats.
    """

    name: str
    unit: str
    cells: tuple[Cell, ...]
    scope: Scope = Scope.WORKER
    origin: str = ""
    of_host_memory: bool = False
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keys = [cell.key for cell in self.cells]
        if len(set(keys)) != len(keys):
            raise ValueError(f"resource {self.name} lists a cell twice: {keys}")

    @property
    def capacity(self) -> int:
        """Sum over all cells, in the resource's unit."""
        return sum(cell.capacity for cell in self.cells)


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The resources of one machine as detected and declared.

    Attributes:
        resources: Sorted by name; names are distinct.
        unknown: Resources whose present state could not be read. They are never written as zero: the registration
            stays as it is.
        unknown_cells: Keys of cells whose state could not be read while their resource could.
        lost: Resources of which every cell that is not listed is broken or gone. Their limits stay, nothing more is
            granted on them.
        lost_cells: Keys of cells that are broken.
    """

    resources: tuple[Resource, ...] = ()
    unknown: frozenset[str] = field(default_factory=frozenset[str])
    unknown_cells: frozenset[str] = field(default_factory=frozenset[str])
    lost: frozenset[str] = field(default_factory=frozenset[str])
    lost_cells: frozenset[str] = field(default_factory=frozenset[str])

    def __post_init__(self) -> None:
        names = [resource.name for resource in self.resources]
        if names != sorted(set(names)):
            raise ValueError(f"resources must be sorted and distinct: {names}")

    def __getitem__(self, name: str) -> Resource:
        for resource in self.resources:
            if resource.name == name:
                return resource
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(resource.name == name for resource in self.resources)

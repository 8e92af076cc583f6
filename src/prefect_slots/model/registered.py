"""The registered machine: its resources and their numbered cells, and the units of limits that they occupy.

A `LimitUnit` is the part of one limit that a grant occupies, before that limit has a name on the Prefect server. The
order of units is defined in `scheduling.canonical_order`, the spelling of names in `limits.naming`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from prefect_slots.model.book import CellId
from prefect_slots.model.requirement import Demand, Requirement, Share
from prefect_slots.model.resource import GPU_MEM, MEM, Scope


@dataclass(frozen=True, kw_only=True)
class LimitUnit:
    """`weight` slots of one limit, at its place in the canonical order.

    Attributes:
        cell: The cell's number, or `None` for the resource's total on this machine (or in the fleet).
    """

    scope: Scope
    resource: str
    cell: int | None
    weight: int


@dataclass(frozen=True, kw_only=True)
class LimitSpec:
    """A limit that the server should have: its name and number of slots."""

    name: str
    limit: int
    scope: Scope


@dataclass(frozen=True)
class Stock:
    """A registered resource as limit names need it: numbered cells and their nominal capacities.

    Attributes:
        cells: `(number, capacity)` pairs; a number is given once per cell key and never reused.
        declared: The number is a person's, and not counted by a device or a license server.
    """

    resource: str
    scope: Scope
    cells: tuple[tuple[int, int], ...]
    declared: bool = False


@dataclass(frozen=True)
class RegisteredCell:
    """A cell with its number.

    Attributes:
        key: Stable key of the cell: the UUID of a GPU.
        position: Index that `nvidia-smi` showed at registration, for people only.
        capacity: In the resource's unit; `Exclusive` where the first holder takes all of it.
        foreign: Foreign use: the server's count, and the use beyond it that devices and license servers show.
        present: The last survey found it, or could not tell.
        lost: It is broken: nothing more is granted on it.
    """

    id: CellId
    key: str
    label: str
    position: int | None
    capacity: int
    foreign: int
    present: bool
    lost: bool


@dataclass(frozen=True)
class RegisteredResource:
    """A resource with its numbered cells."""

    name: str
    unit: str
    scope: Scope
    origin: str
    cells: tuple[RegisteredCell, ...]


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A registered machine.

    Attributes:
        edition: Random text, a new one after every registration and every change of foreign use.
        machine: The `<worker>` in limit names, or `None` before the first registration.
        resources: Sorted by name; cells that have gone are listed with `present` false.
        unified: `gpu_mem` is of the host's memory, which `mem` counts too.
        pools: The resource that stands for each further name; see `Resource.also`.
    """

    # Not compared: a registration that changes nothing must not look like a change to its readers.
    edition: str | None = field(compare=False)
    machine: str | None
    resources: tuple[RegisteredResource, ...]
    unified: bool = False
    pools: Mapping[str, str] = field(default_factory=dict[str, str])

    # Cheap and good enough: a cache of calls meets few machines, and hashing all cells would cost more than the calls.
    def __hash__(self) -> int:
        return hash(self.machine)

    def pooled(self, wanted: Requirement) -> Requirement:
        """Return the requirement with one demand on each pool of seats, by whatever names it is asked for."""
        if self.pools.keys().isdisjoint(wanted.resources):
            return wanted
        return Requirement.any_of([self._pooled(each) for each in wanted.alternatives])

    def _pooled(self, wanted: Requirement) -> Requirement:
        demands: dict[str, Demand] = {}
        for demand in wanted.demands:
            name = self.pools.get(demand.resource, demand.resource)
            before = demands.get(name)
            amount = demand.amount
            if before is not None and isinstance(before.amount, int) and isinstance(amount, int):
                amount += before.amount
            demands[name] = replace(demand, resource=name, amount=amount)
        return Requirement.of(demands.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the resources that have a cell now."""
        return tuple(stock.resource for stock in self.stocks)

    @property
    def scopes(self) -> dict[str, Scope]:
        """The scope of each resource."""
        return {resource.name: resource.scope for resource in self.resources}

    def cells(self, resource: str) -> tuple[RegisteredCell, ...]:
        """Return the present cells of a resource, by number."""
        listed = (cell for each in self.resources if each.name == resource for cell in each.cells)
        return tuple(cell for cell in listed if cell.present)

    @property
    def stocks(self) -> tuple[Stock, ...]:
        """The resources with their present cells, as limits are made from them."""
        stocks = (
            Stock(each.name, each.scope, tuple((cell.id.number, cell.capacity) for cell in each.cells if cell.present))
            for each in self.resources
        )
        return tuple(stock for stock in stocks if stock.cells)

    def with_host_memory(self, wanted: Requirement) -> Requirement:
        """Return a requirement that asks for as much of `mem` as of `gpu_mem`, where these are the same bytes.

        So the cell of `mem` counts all of them, and no two grants get more than there is.
        """
        gpus, host = self.cells(GPU_MEM), self.cells(MEM)
        if not (self.unified and gpus and host):
            return wanted
        # The largest: which GPU it will be is not known yet.
        gpu, most = max(cell.capacity for cell in gpus), host[0].capacity
        return Requirement.any_of([_with_host_memory(each, gpu, most) for each in wanted.alternatives])

    def cell(self, cell_id: CellId) -> RegisteredCell | None:
        """Return the cell of that id."""
        listed = (cell for resource in self.resources for cell in resource.cells)
        return next((cell for cell in listed if cell.id == cell_id), None)


def _with_host_memory(wanted: Requirement, gpu: int, most: int) -> Requirement:
    demands = {demand.resource: demand for demand in wanted.demands}
    asked, beside = demands.get(GPU_MEM), demands.get(MEM)
    if asked is None:
        return wanted
    units = asked.on(gpu) * asked.cells
    if isinstance(asked.amount, Share):
        # Headroom of the host is none of the GPU's: a whole GPU is all that tasks may have.
        units = min(units, most)
    if beside is not None:
        units += beside.on(most)
    demands[MEM] = Demand(resource=MEM, amount=units)
    return Requirement.of(demands.values())

"""Placement: best fit of a requirement, each demand on single cells, all different.

Best fit takes the cell with the least left over, and so keeps large gaps for large requests. A share of a cell (a whole
GPU is one) goes to the fullest cell by shares, then to the kind of GPU that the machine has most of. Foreign use of a
resource is spread over its cells by the opposite rule.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prefect_slots.model import Book, CellId, CellState, Demand, Exclusive, Grant, Holding, Requirement
from prefect_slots.model.requirement import WHOLE, Share

Amounts = Mapping[CellId, int]
_ALL = Share(WHOLE)


class Placed(NamedTuple):
    """The cells for a requirement, and the index of the alternative that they serve."""

    chosen: int
    holdings: tuple[Holding, ...]


@dataclass
class Pool:
    """The cells that serve some requests: the machine's, or those a grant holds.

    Attributes:
        nominal: Capacity of each cell: the base of shares.
        most: Amount that one requirement could have on an idle machine, after foreign use.
        free: Free amount; negative after a capacity was cut below its holdings.
        machine: All cells of the book, with the properties of GPUs.
        display: Amount of a cell that is no part of shares: a whole GPU is all but a display server's memory.
    """

    nominal: dict[CellId, int]
    most: dict[CellId, int]
    free: dict[CellId, int]
    machine: tuple[CellState, ...]
    display: Mapping[CellId, int] = field(default_factory=dict[CellId, int])
    by_resource: dict[str, list[CellId]] = field(init=False)

    def __post_init__(self) -> None:
        self.by_resource = {}
        for cell in sorted(self.nominal):
            self.by_resource.setdefault(cell.resource, []).append(cell)

    def cells(self, resource: str) -> list[CellId]:
        """Return the cells of `resource` in this pool, by number."""
        return self.by_resource.get(resource, [])

    def suiting(self, demand: Demand) -> list[CellId]:
        """Return the cells that `demand` may take, by number, whatever their amounts."""
        cells = self.cells(demand.resource)
        if demand.cells == 1 and not demand.gpu:
            return cells
        suiting = {
            cell.id
            for cell in self.machine
            if not (cell.lone and demand.cells > 1) and demand.gpu.accepts(cell.label, cell.compute_capability)
        }
        return [cell for cell in cells if cell in suiting]

    def need(self, demand: Demand, cell: CellId) -> int:
        """Return the amount that `demand` takes on `cell`."""
        nominal, display = self.nominal[cell], self.display.get(cell)
        if display and isinstance(nominal, Exclusive):
            return demand.on(Exclusive(nominal - display))
        return demand.on(nominal - display if display else nominal)


def machine_pool(book: Book) -> Pool:
    """Return the machine's cells; grants that draw on another grant take nothing here."""
    known = {cell.id: cell.capacity for cell in book.cells}
    free = {cell.id: cell.capacity - cell.foreign for cell in book.cells}
    for grant in book.grants:
        if grant.shape.pool is None:
            for cell, amount in grant.holdings:
                free[cell] = free.get(cell, 0) - amount
    # A cell that is held and no longer registered stays in the pool and offers nothing.
    for cell in free.keys() - known.keys():
        known[cell] = 0
    most = {cell.id: cell.effective for cell in book.cells}
    display = {cell.id: cell.display for cell in book.cells if cell.display}
    return Pool(known, {cell: most.get(cell, 0) for cell in known}, free, book.cells, display)


def grant_pool(book: Book, source: Grant) -> Pool:
    """Return the cells that `source` holds, less the draws on it."""
    nominal = {cell.id: cell.capacity for cell in book.cells}
    most = dict(source.holdings)
    free = dict(most)
    for grant in book.grants:
        if grant.shape.pool == source.id:
            for cell, amount in grant.holdings:
                free[cell] -= amount
    # The whole of a whole GPU is what its holder was given: the display's part may have changed since.
    whole = _wholly(source)
    display = {cell: nominal.get(cell, 0) - held for cell, held in most.items() if cell.resource in whole}
    return Pool({cell: nominal.get(cell, 0) for cell in most}, most, free, book.cells, display)


def _wholly(grant: Grant) -> set[str]:
    """Return the resources of which a grant holds whole cells."""
    demands = grant.shape.requirement.alternatives[grant.chosen].demands
    return {demand.resource for demand in demands if demand.amount == _ALL}


def nominal_pool(book: Book) -> Pool:
    """Return the machine's cells as if nobody used them."""
    nominal = {cell.id: cell.capacity for cell in book.cells}
    return Pool(nominal, nominal, nominal, book.cells)


def _best(pool: Pool, demand: Demand, amounts: Amounts) -> list[CellId]:
    fitting = [cell for cell in pool.suiting(demand) if amounts[cell] >= pool.need(demand, cell)]
    if isinstance(demand.amount, Share):
        fitting.sort(key=_by_shares(pool, demand, amounts))
    else:
        # An exclusive cell takes all that it has: after the least left over, the least taken.
        fitting.sort(key=lambda cell: (amounts[cell] - pool.need(demand, cell), pool.need(demand, cell), cell.number))
    return fitting[: demand.cells]


def _by_shares(pool: Pool, demand: Demand, amounts: Amounts) -> Callable[[CellId], tuple[int, int, int, int]]:
    """Return the order of cells for a share: the fullest by shares, the kind that there is most of, the largest.

    By amounts, the small GPU for a monitor would win over the GPUs that a machine is made of: a share names no amount.
    """
    cells = [cell for cell in pool.machine if cell.id.resource == demand.resource]
    kinds = Counter((cell.label, cell.capacity) for cell in cells)
    alike = {cell.id: kinds[cell.label, cell.capacity] for cell in cells}

    def order(cell: CellId) -> tuple[int, int, int, int]:
        left = (amounts[cell] - pool.need(demand, cell)) * WHOLE // max(1, pool.nominal[cell])
        return left, -alike.get(cell, 0), -pool.nominal[cell], cell.number

    return order


def fits(pool: Pool, demand: Demand, amounts: Amounts) -> bool:
    """Return whether one demand has room on enough cells."""
    return len(_best(pool, demand, amounts)) == demand.cells


def place(pool: Pool, requirement: Requirement, amounts: Amounts) -> Placed | None:
    """Return the cells of the first alternative that fits into `amounts`, or `None` if none does."""
    for chosen, alternative in enumerate(requirement.alternatives):
        holdings = _place(pool, alternative.demands, amounts)
        if holdings is not None:
            return Placed(chosen, holdings)
    return None


def _place(pool: Pool, demands: Iterable[Demand], amounts: Amounts) -> tuple[Holding, ...] | None:
    placed: list[Holding] = []
    for demand in demands:
        cells = _best(pool, demand, amounts)
        if len(cells) < demand.cells:
            return None
        # By number: holdings are listed, and their limits occupied, in the canonical order.
        placed.extend(Holding(cell, pool.need(demand, cell)) for cell in sorted(cells))
    return tuple(placed)


# Foreign use


@dataclass(frozen=True, kw_only=True)
class CellUse:
    """One cell of a resource.

    Attributes:
        held: Amount granted by this ledger.
        foreign: Foreign use of the cell's own limit, as far as it is known.
    """

    number: int
    capacity: int
    held: int
    foreign: int = 0


def spread(cells: Sequence[CellUse], in_all: int) -> dict[int, int]:
    """Return foreign use by cell number, given the foreign use of the resource `in_all`.

    The part that is taken from the resource's total and from no cell in particular goes to the cells with the most
    room, so that the free amounts never add up to more than the server has left.
    """
    foreign = {cell.number: min(cell.foreign, cell.capacity) for cell in cells}
    left = in_all - sum(foreign.values())
    while left > 0:
        cell = max(cells, key=lambda cell: (_room(cell, foreign), -cell.number))
        room = _room(cell, foreign)
        if room <= 0:
            break
        taken = min(room, left)
        foreign[cell.number] += taken
        left -= taken
    for cell in cells:
        # More is in use than there is: the rest is taken from cells that this ledger holds.
        taken = max(0, min(left, cell.capacity - foreign[cell.number]))
        foreign[cell.number] += taken
        left -= taken
    return foreign


def _room(cell: CellUse, foreign: Mapping[int, int]) -> int:
    return cell.capacity - cell.held - foreign[cell.number]

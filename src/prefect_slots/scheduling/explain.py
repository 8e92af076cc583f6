"""Why a ticket waits, and what can never be granted: data for errors, logs and tables.

Nothing is decided here; the same pools that placement uses are described.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefect_slots.model.book import Book, CellId, CellState
from prefect_slots.model.requirement import Demand, Requirement
from prefect_slots.model.resource import GPU_MEM, MEM
from prefect_slots.scheduling.fairness import set_aside
from prefect_slots.scheduling.placement import Pool, fits, machine_pool, place


@dataclass(frozen=True, kw_only=True)
class Shortage:
    """One demand that has no room now.

    Attributes:
        free: What each cell has free, by number, after what is set aside for tickets ahead.
        set_aside: Whether there would be room but for what is set aside.
    """

    demand: Demand
    free: tuple[tuple[CellId, int], ...]
    set_aside: bool

    def __str__(self) -> str:
        unit = " MiB" if self.demand.resource in (GPU_MEM, MEM) else ""
        if len(self.free) == 1 and self.demand.resource != GPU_MEM:
            text = f"waits for {self.demand.describe()}; {max(0, self.free[0][1])}{unit} free"
        else:
            noun = "gpu" if self.demand.resource == GPU_MEM else self.demand.resource
            kind = "card" if self.demand.resource == GPU_MEM else "cell"
            needs = (
                sorted({self.demand.on(amount) for _, amount in self.free})
                if isinstance(self.demand.amount, int)
                else []
            )
            amount = f"{needs[0]}{unit}" if needs else self.demand.describe()
            count = "one" if self.demand.cells == 1 else str(self.demand.cells)
            cells = ", ".join(
                f"{noun} {cell.number} has {max(0, free)}{' free' if place == 0 else ''}"
                for place, (cell, free) in enumerate(self.free)
            )
            where = f"on {count} of {len(self.free)} {kind}s" if len(self.free) > 1 else f"on one {kind}"
            text = f"waits for {amount} {where}; {cells}"
        return f"{text} (the rest is set aside for tickets ahead)" if self.set_aside else text


def shortages(book: Book, requirement: Requirement) -> tuple[Shortage, ...]:
    """Return the demands of a request outside any grant that have no room now, with what each cell has free."""
    pool = machine_pool(book)
    left = dict(pool.free)
    for line in book.lines:
        if line.shape.pool is None:
            for ticket in line.tickets:
                set_aside(left, ticket.reserved)
    return tuple(
        Shortage(
            demand=demand,
            free=tuple((cell, left[cell]) for cell in pool.cells(demand.resource) if pool.nominal[cell]),
            set_aside=fits(pool, demand, pool.free),
        )
        for demand in requirement.demands
        if not fits(pool, demand, left)
    )


def is_possible(book: Book, requirement: Requirement) -> bool:
    """Tell whether the machine's nominal capacity could ever hold `requirement`."""
    pool = _nominal_pool(book.cells)
    return place(pool, requirement, pool.nominal) is not None


def is_stranded(book: Book, requirement: Requirement) -> bool:
    """Tell whether what others use leaves too little for `requirement` even on an otherwise empty machine."""
    pool = machine_pool(book)
    return place(pool, requirement, pool.most) is None


def largest(book: Book, requirement: Requirement, labels: Mapping[CellId, str]) -> str:
    """Say what the machine has of the first demand that can never fit."""
    pool = _nominal_pool(book.cells)
    for demand in requirement.demands:
        if not fits(pool, demand, pool.nominal):
            cells = sorted(pool.cells(demand.resource), key=lambda cell: -pool.nominal[cell])
            if not cells:
                return f"it has no {demand.resource}"
            unit = " MiB" if demand.resource in (GPU_MEM, MEM) else ""
            top = f"{pool.nominal[cells[0]]}{unit}"
            if demand.resource == GPU_MEM:
                label = f" ({labels[cells[0]]})" if labels.get(cells[0]) else ""
                count = f"it has {len(cells)} card{'s' if len(cells) > 1 else ''}"
                return f"{count}, the largest is gpu {cells[0].number}{label} with {top}"
            return f"it has {top} of {demand.resource}" + (
                f" on each of {len(cells)} cells at most" if len(cells) > 1 else ""
            )
    return ""


def _nominal_pool(cells: tuple[CellState, ...]) -> Pool:
    nominal = {cell.id: cell.capacity for cell in cells}
    return Pool(nominal, nominal, nominal)

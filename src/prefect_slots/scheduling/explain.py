"""The reasons of waiting and of refusal, as data for errors, logs and tables.

Nothing is decided here; the same pools that placement uses are described.
"""

from dataclasses import dataclass, replace

from prefect_slots.model import GPU_MEM, MEM, WHOLE, Book, CellId, CellState, Demand, Line, Requirement, Share, Ticket
from prefect_slots.scheduling.fairness import set_aside
from prefect_slots.scheduling.placement import Pool, fits, grant_pool, machine_pool, nominal_pool, place

# A GPU that is sold as one of 24 GiB offers some per cent less: its driver keeps a part.
_NAMED_SIZE = 1.1


@dataclass(frozen=True, kw_only=True)
class Shortage:
    """One demand that has no room now.

    Attributes:
        free: Free amount of each cell, by number, after the reservations ahead.
        set_aside: There would be room but for those reservations.
    """

    demand: Demand
    free: tuple[tuple[CellId, int], ...]
    set_aside: bool

    def __str__(self) -> str:
        demand = self.demand
        unit = " MiB" if demand.resource in (GPU_MEM, MEM) else ""
        if len(self.free) == 1 and demand.resource != GPU_MEM:
            text = f"waits for {demand.describe()}; {max(0, self.free[0][1])}{unit} free"
        elif self.free:
            noun = "gpu" if demand.resource == GPU_MEM else demand.resource
            cells = ", ".join(
                f"{noun} {cell.number} has {max(0, free)}{'' if place else ' free'}"
                for place, (cell, free) in enumerate(self.free)
            )
            text = f"waits for {self._amount(unit)} {self._where()}; {cells}"
        else:
            text = f"waits for {demand.describe()}; the machine has none now"
        return f"{text} (the rest is set aside for tickets ahead)" if self.set_aside else text

    def _amount(self, unit: str) -> str:
        amount = self.demand.amount
        if isinstance(amount, Share):
            return "all of" if amount.millionths == WHOLE else f"{amount.millionths / 10_000:g} % of"
        of = "" if self.demand.resource == GPU_MEM else f" of {self.demand.resource}"
        return f"{amount}{unit}{of} on"

    def _where(self) -> str:
        count = "one" if self.demand.cells == 1 else str(self.demand.cells)
        kind = "card" if self.demand.resource == GPU_MEM else "cell"
        return f"{count} of {len(self.free)} {kind}s" if len(self.free) > 1 else f"{count} {kind}"


def shortages(book: Book, requirement: Requirement, ticket: str | None = None) -> tuple[Shortage, ...]:
    """Return the demands of a waiting request that have no room now, with the free amount of each cell.

    Args:
        book: The machine as it is now.
        requirement: The requirement of the request.
        ticket: The request's own ticket, if it has one. Its own reservation and those behind it do not count, and a
            draw is looked at within the grant that it draws on.
    """
    line = _line(book, ticket)
    source = line.shape.pool if line else None
    pool = _pool(book, source)
    left = dict(pool.free)
    for other in book.lines:
        if other.shape.pool == source and place(pool, other.shape.requirement, pool.most) is not None:
            for before in other.tickets:
                if _is_ahead(before, line, ticket):
                    set_aside(left, before.reserved)
    return tuple(
        Shortage(
            demand=demand,
            free=tuple((cell, left[cell]) for cell in pool.suiting(demand) if pool.nominal[cell]),
            set_aside=fits(pool, demand, pool.free),
        )
        for demand in dict.fromkeys(requirement.all_demands)
        if not fits(pool, demand, left)
    )


def _line(book: Book, ticket: str | None) -> Line | None:
    return next((line for line in book.lines if any(waiting.id == ticket for waiting in line.tickets)), None)


def _pool(book: Book, source: str | None) -> Pool:
    grant = next((grant for grant in book.grants if grant.id == source), None)
    return grant_pool(book, grant) if grant else machine_pool(book)


def _is_ahead(other: Ticket, line: Line | None, ticket: str | None) -> bool:
    own = next((waiting for waiting in line.tickets if waiting.id == ticket), None) if line else None
    if own is None or line is None or (line.shape.nesting and not own.reserved):
        return True
    return other.slot < own.slot


def is_possible(book: Book, requirement: Requirement) -> bool:
    """Return whether the machine's nominal capacity could ever hold `requirement`."""
    pool = nominal_pool(book)
    return place(pool, requirement, pool.nominal) is not None


def is_stranded(book: Book, requirement: Requirement, ticket: str | None = None) -> bool:
    """Return whether foreign use leaves too little for `requirement` even on an otherwise empty machine.

    A draw, known by its `ticket`, is looked at within the grant that it draws on.
    """
    line = _line(book, ticket)
    pool = _pool(book, line.shape.pool if line else None)
    return place(pool, requirement, pool.most) is None


def largest(book: Book, requirement: Requirement) -> str:
    """Return words for the largest capacity that the machine has of the first demand that can never fit."""
    pool = nominal_pool(book)
    for demand in requirement.all_demands:
        if not fits(pool, demand, pool.nominal):
            known = {cell.id: cell for cell in book.cells if cell.id.resource == demand.resource}
            cells = sorted(pool.suiting(replace(demand, cells=1)), key=lambda cell: -pool.nominal[cell])
            if not known:
                return f"it has no {demand.resource}"
            if not cells:
                return f"it has {', '.join(sorted({_gpu(cell) for cell in known.values()}))}"
            if len(pool.suiting(demand)) < demand.cells <= len(cells):
                count = sum(known[cell].lone for cell in cells)
                return (
                    f"{count} of its {len(cells)} cards are MIG instances, and a process can use one of these at most"
                )
            unit = " MiB" if demand.resource in (GPU_MEM, MEM) else ""
            top = f"{pool.nominal[cells[0]]}{unit}"
            several = len(cells) > 1
            if demand.resource == GPU_MEM:
                label = f" ({known[cells[0]].label})" if known[cells[0]].label else ""
                count = f"it has {len(cells)} {'such ' if demand.gpu else ''}card{'s' if several else ''}"
                text = f"{count}, the largest is gpu {cells[0].number}{label} with {top}"
                most, asked = pool.nominal[cells[0]], demand.amount
                if not isinstance(asked, Share) and most < asked <= most * _NAMED_SIZE:
                    text += f"; gpus={demand.cells} without gpu_mem asks for whole ones"
                return text
            return f"it has {top} of {demand.resource}{f' on each of {len(cells)} cells at most' if several else ''}"
    return ""


def _gpu(cell: CellState) -> str:
    """Return a GPU in words, with the compute capability that a filter may have asked for."""
    capability = f" of compute capability {cell.compute_capability}" if cell.compute_capability else ""
    return f"{cell.label or 'a card without a name'}{capability}"

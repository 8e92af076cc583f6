"""Fairness: a bound on overtaking, and reservations for tickets that have reached it (aging).

An overtake is a grant to a later ticket, whatever its priority, that leaves an earlier one without room. After
`max_overtakes` of them a ticket reserves amounts on concrete cells, never whole resources, and later tickets see only
the rest. So no stream of small or urgent requests starves a large or lax one. Within a line tickets are served by slot,
so that the reserving ones are always its first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prefect_slots.model import CellId, Demand, Holding, Line, Requirement, Shape, Ticket
from prefect_slots.scheduling.placement import Amounts, Pool, fits, place


@dataclass(frozen=True)
class Reservation:
    """The cells reserved for one ticket; of its alternatives they serve the one that is `wanted`."""

    shape: Shape
    ticket: Ticket
    wanted: Requirement
    cells: tuple[Holding, ...]


def overtaken(line: Line, ticket: Ticket) -> int:
    """Return the number of times that a ticket was overtaken: its line's count since it was queued."""
    return line.overtakes - ticket.base


def reserving(line: Line, max_overtakes: int) -> int:
    """Return the number of the line's first tickets that reserve.

    They are all up to the last that has cells already, and on from there all that have been overtaken often enough. A
    ticket behind one that does not reserve yet waits for that one, so that a view need not show it.
    """
    tickets = line.tickets
    number = len(tickets)
    while number and not tickets[number - 1].reserved:
        number -= 1
    while number < len(tickets) and overtaken(line, tickets[number]) >= max_overtakes:
        number += 1
    return number


def front(line: Line) -> Sequence[Ticket]:
    """Return the tickets without a reservation, of which a view shows only the first few."""
    return [ticket for ticket in line.tickets if not ticket.reserved]


def set_aside(amounts: dict[CellId, int], cells: Iterable[Holding]) -> None:
    """Subtract reserved amounts from the amounts that later tickets see, to zero at most."""
    for cell, amount in cells:
        if cell in amounts:
            amounts[cell] -= max(0, min(amounts[cell], amount))


def exhausted(pool: Pool, shape: Shape, amounts: Amounts) -> bool:
    """Return whether nothing at all is left of anything `shape` asks for: reserving more would change nothing."""
    return all(amounts[cell] <= 0 for demand in shape.requirement.all_demands for cell in pool.suiting(demand))


def preferred(pool: Pool, shape: Shape) -> Requirement:
    """Return the alternative to reserve for: the first that an idle machine has room for.

    One is enough, and more would keep cells idle. Any alternative that fits sooner is granted all the same.
    """
    alternatives = shape.requirement.alternatives
    placed = place(pool, shape.requirement, pool.most)
    return alternatives[placed.chosen if placed else 0]


def choose_cells(pool: Pool, wanted: Requirement, kept: tuple[Holding, ...], amounts: Amounts) -> tuple[Holding, ...]:
    """Return the cells to reserve: those kept so far, moved only to where a demand has room at once.

    A reservation that hopped between cells would lose each cell that it leaves to later tickets.
    """
    return tuple(
        Holding(cell, pool.need(demand, cell))
        for demand in wanted.demands
        for cell in sorted(_choose(pool, demand, {cell for cell, _ in kept}, amounts))
    )


def _choose(pool: Pool, demand: Demand, kept: set[CellId], amounts: Amounts) -> Sequence[CellId]:
    able = [cell for cell in pool.suiting(demand) if pool.most[cell] >= pool.need(demand, cell)]
    missing = {cell: max(0, pool.need(demand, cell) - amounts[cell]) for cell in able}
    # Room at once, then the cells kept so far, then the least missing, or the best fit.
    able.sort(
        key=lambda cell: (
            missing[cell] > 0,
            cell not in kept,
            missing[cell] or amounts[cell] - pool.need(demand, cell),
            cell.number,
        )
    )
    return able[: demand.cells]


def is_hurt(pool: Pool, shape: Shape, granted: Iterable[Holding]) -> bool:
    """Return whether a grant of these cells left `shape` without room for a demand of one of its alternatives."""
    touched = {cell for cell, _ in granted}
    asked = shape.requirement.all_demands
    return any(not touched.isdisjoint(pool.suiting(demand)) and not fits(pool, demand, pool.free) for demand in asked)

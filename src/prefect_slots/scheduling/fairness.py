"""Who has been overtaken too often, what is set aside for whom, and who waits for whom.

An overtake is a grant to a later arrival, whatever its priority, that leaves an earlier ticket without room. A ticket
overtaken `max_overtakes` times reserves: amounts on concrete cells, never whole resources. A nested ticket
passes a reservation only if the reserver waits, through others, for the nested ticket's own root: always passing would
starve the reserver, never passing would deadlock with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prefect_slots.model.book import CellId, Grant, Holding, Line, Shape, Ticket
from prefect_slots.model.requirement import Demand
from prefect_slots.scheduling.placement import Amounts, Pool, fits


@dataclass(frozen=True)
class Reservation:
    """The cells that one ticket waits for."""

    shape: Shape
    ticket: Ticket
    cells: tuple[Holding, ...]


def overtaken(line: Line, ticket: Ticket) -> int:
    """Return how often later arrivals were granted what this ticket competes for."""
    return line.overtakes - ticket.base


def reserves(line: Line, ticket: Ticket, max_overtakes: int) -> bool:
    """Tell whether the ticket has waited past enough others to have cells set aside."""
    return bool(ticket.reserved) or overtaken(line, ticket) >= max_overtakes


def set_aside(amounts: dict[CellId, int], cells: Iterable[Holding]) -> None:
    """Take reserved amounts out of what later tickets see; what is missing cannot be taken out."""
    for cell, amount in cells:
        if cell in amounts:
            amounts[cell] -= max(0, min(amounts[cell], amount))


def exhausted(pool: Pool, shape: Shape, amounts: Amounts) -> bool:
    """Tell whether nothing at all is left of anything `shape` asks for: reserving more of it would change nothing."""
    return all(amounts[cell] <= 0 for demand in shape.requirement.demands for cell in pool.cells(demand.resource))


def choose_cells(pool: Pool, shape: Shape, kept: tuple[Holding, ...], amounts: Amounts) -> tuple[Holding, ...]:
    """Return the cells to reserve: those kept so far, moved only to where a demand has room at once.

    A reservation that hopped between cells would let others take each cell it leaves.
    """
    return tuple(
        Holding(cell, pool.need(demand, cell))
        for demand in shape.requirement.demands
        for cell in sorted(_choose(pool, demand, {cell for cell, _ in kept}, amounts))
    )


def _choose(pool: Pool, demand: Demand, kept: set[CellId], amounts: Amounts) -> Sequence[CellId]:
    able = [cell for cell in pool.cells(demand.resource) if pool.most[cell] >= pool.need(demand, cell)]
    missing = {cell: max(0, pool.need(demand, cell) - amounts[cell]) for cell in able}
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
    """Tell whether a grant of these cells left `shape` without room for one of its demands."""
    touched = {cell.resource for cell, _ in granted}
    return any(demand.resource in touched and not fits(pool, demand, pool.free) for demand in shape.requirement.demands)


@dataclass
class WaitGraph:
    """Who waits for whom on the machine: tickets for the roots of holders, and for reservations ahead of them.

    Attributes:
        holders: For each resource, the roots that hold some of it.
        ahead: For each waiting shape's key, the shapes with reservations ahead of it that want a common resource.
    """

    pool: Pool
    lines: Sequence[Line]
    holders: Mapping[str, set[str]]
    ahead: Mapping[str, Sequence[Shape]] = field(default_factory=dict[str, Sequence[Shape]])

    @classmethod
    def of(
        cls, pool: Pool, lines: Sequence[Line], grants: Iterable[Grant], reservations: Sequence[Reservation]
    ) -> WaitGraph:
        """Build the graph: every ticket stands behind the reservations before it."""
        holders: dict[str, set[str]] = {}
        for grant in grants:
            for cell, _ in grant.holdings:
                holders.setdefault(cell.resource, set()).add(grant.root)
        position = {reservation.ticket.id: place for place, reservation in enumerate(reservations)}
        ahead: dict[str, list[Shape]] = {}
        for line in lines:
            # A line stands where its last listed ticket stands: counting more edges than there are only lets a nested
            # ticket pass that need not, and it holds up nobody.
            mine = max((position.get(ticket.id, len(reservations)) for ticket in line.tickets), default=0)
            ahead[line.shape.key] = [
                other.shape
                for other in reservations[:mine]
                if other.shape.key != line.shape.key and _overlap(other.shape, line.shape)
            ]
        return cls(pool, lines, holders, ahead)

    def waits_for(self, reserver: Shape, root: str) -> bool:
        """Tell whether `reserver` waits, directly or through others, for the chain of grants under `root`."""
        of_root: dict[str, list[Shape]] = {}
        for line in self.lines:
            if line.shape.nesting and line.tickets:
                of_root.setdefault(line.shape.nesting.root, []).append(line.shape)
        todo, seen, roots = [reserver], {reserver.key}, set[str]()
        while todo:
            shape = todo.pop()
            met: list[Shape] = list(self.ahead.get(shape.key, ()))
            for demand in shape.requirement.demands:
                if not fits(self.pool, demand, self.pool.free):
                    for holder in self.holders.get(demand.resource, set()) - roots:
                        roots.add(holder)
                        met.extend(of_root.get(holder, ()))
            for other in met:
                if other.key not in seen:
                    seen.add(other.key)
                    todo.append(other)
        return root in roots


def _overlap(one: Shape, other: Shape) -> bool:
    return not set(one.requirement.resources).isdisjoint(other.requirement.resources)

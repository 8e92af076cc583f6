"""Who is next: the reservations in one pool, and the first ticket that can be granted.

Tickets that reserve come first, by arrival; then the first other ticket of each line, by priority and arrival. Each
sees what is free less what is set aside for those before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prefect_slots.model.book import Grant, Holding, Line, Ticket
from prefect_slots.scheduling.fairness import Reservation, choose_cells, exhausted, front, reserving, set_aside
from prefect_slots.scheduling.placement import Pool, place
from prefect_slots.scheduling.waiting import WaitGraph


@dataclass(frozen=True)
class Admission:
    """One look over a pool.

    Attributes:
        reservations: In the order in which they are honoured.
        found: The ticket to grant, its line, and where it goes; `None` if nobody fits.
        need_more: Whether a line's front ran out before it was known what it reserves; nothing is found then.
    """

    reservations: tuple[Reservation, ...]
    found: tuple[Line, Ticket, tuple[Holding, ...]] | None = None
    need_more: bool = False


def admit(
    pool: Pool, source: str | None, lines: Mapping[str, Line], grants: Mapping[str, Grant], max_overtakes: int
) -> Admission:
    """Look over the pool of `source` (`None` is the machine); `lines` and `grants` are those of the whole book."""
    here = [line for line in lines.values() if line.tickets and line.shape.pool == source]
    reservations, sated, need_more = _reservations(pool, here, max_overtakes)
    if need_more:
        return Admission(reservations, need_more=True)
    graph = WaitGraph(pool, source, lines.values(), grants, reservations)
    left = dict(pool.free)
    taken = 0
    for line, ticket, ahead in _candidates(here, reservations, sated, max_overtakes):
        while taken < ahead:
            set_aside(left, reservations[taken].cells)
            taken += 1
        usable = left
        if line.shape.nesting and ahead:
            usable = dict(pool.free)
            for position, reservation in enumerate(reservations[:ahead]):
                if not graph.passes(line.shape.nesting, position):
                    set_aside(usable, reservation.cells)
        placed = place(pool, line.shape.requirement, usable)
        if placed is not None:
            return Admission(reservations, found=(line, ticket, placed))
    return Admission(reservations)


def _reservations(
    pool: Pool, lines: Sequence[Line], max_overtakes: int
) -> tuple[tuple[Reservation, ...], set[str], bool]:
    """Choose cells for every ticket that reserves, oldest first.

    Returns:
        The reservations; the keys of lines for which nothing at all is left; and whether a line's front ran out
        before either was so.
    """
    waiting: list[tuple[int, Ticket, Line]] = []
    last_shown: set[str] = set()
    for line in lines:
        number = reserving(line, max_overtakes)
        # What does not fit even an idle machine is stranded: it could never use what it reserved.
        if number and place(pool, line.shape.requirement, pool.most) is not None:
            waiting.extend((ticket.seq, ticket, line) for ticket in line.tickets[:number])
            unserved = front(line)
            if line.truncated and (not unserved or unserved[-1].seq <= line.tickets[number - 1].seq):
                last_shown.add(unserved[-1].id if unserved else line.tickets[-1].id)
    waiting.sort(key=lambda entry: entry[0])
    left = dict(pool.free)
    made: list[Reservation] = []
    sated: set[str] = set()
    for _, ticket, line in waiting:
        # A nested ticket may pass those before it, so that nothing left over for it need not mean that it cannot fit.
        if line.shape.key in sated or (line.shape.nesting is None and exhausted(pool, line.shape, left)):
            sated.add(line.shape.key)
            continue
        cells = choose_cells(pool, line.shape, ticket.reserved, left)
        made.append(Reservation(line.shape, ticket, cells))
        set_aside(left, cells)
        if ticket.id in last_shown:
            return tuple(made), sated, True
    return tuple(made), sated, False


def _candidates(
    lines: Sequence[Line], reservations: Sequence[Reservation], sated: set[str], max_overtakes: int
) -> Iterator[tuple[Line, Ticket, int]]:
    """Yield who may be granted, in order, with the number of reservations ahead of each."""
    by_key = {line.shape.key: line for line in lines}
    for ahead, reservation in enumerate(reservations):
        yield by_key[reservation.shape.key], reservation.ticket, ahead
    heads: list[tuple[int, int, Line, Ticket]] = []
    for line in lines:
        number = reserving(line, max_overtakes)
        if number < len(line.tickets) and line.shape.key not in sated:
            head = line.tickets[number]
            heads.append((-line.shape.priority, head.seq, line, head))
    for _, _, line, head in sorted(heads, key=lambda entry: entry[:2]):
        yield line, head, len(reservations)

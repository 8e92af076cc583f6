"""Who is next: the reservations in one pool, and the first ticket that can be granted.

The first tickets of the lines come by priority and place, each after those who reserve ahead of it; those who reserve,
by their places. Each sees what is free less what is set aside for those ahead of it, gaps excepted.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prefect_slots.model.book import Grant, Line, Slot, Ticket
from prefect_slots.scheduling import fairness
from prefect_slots.scheduling.backfill import Gaps
from prefect_slots.scheduling.placement import Placed, Pool, place
from prefect_slots.scheduling.wait_graph import WaitGraph


@dataclass(frozen=True)
class Admission:
    """One look over a pool.

    Attributes:
        reservations: In the order in which they are honoured.
        found: The ticket to grant, its line, and where it goes; `None` if nobody fits.
        need_more: Whether a line's front ran out before it was known what it reserves; nothing is found then.
    """

    reservations: tuple[fairness.Reservation, ...]
    found: tuple[Line, Ticket, Placed] | None = None
    need_more: bool = False


def admit(
    pool: Pool,
    source: str | None,
    lines: Mapping[str, Line],
    grants: Mapping[str, Grant],
    max_overtakes: int,
    now: float,
) -> Admission:
    """Look over the pool of `source` (`None` is the machine); `lines` and `grants` are those of the whole book."""
    here = [line for line in lines.values() if line.tickets and line.shape.pool == source]
    reservations, sated, need_more = _reservations(pool, here, max_overtakes)
    if need_more:
        return Admission(reservations, need_more=True)
    graph = WaitGraph(pool, source, lines.values(), grants, reservations)
    gaps = Gaps(pool, source, grants.values(), reservations, now)
    left = [pool.free]
    for reservation in reservations:
        left.append(dict(left[-1]))
        fairness.set_aside(left[-1], reservation.cells)
    for line, ticket, ahead in _candidates(here, reservations, sated):
        usable, nesting = left[ahead], line.shape.nesting
        if ahead and (nesting or line.shape.expected is not None):
            heeded = [at for at in range(ahead) if nesting is None or not graph.passes(nesting, at)]
            late = [at for at in heeded if not gaps.let_in(line.shape, at)]
            # Who reserves nothing, because others have all of a cell, would else be passed by who suits only some.
            shut = {cell for at in late for cell, _ in reservations[at].cells}
            usable = dict(pool.free)
            for at in heeded:
                fairness.set_aside(usable, (held for held in reservations[at].cells if held.cell in shut))
        placed = place(pool, line.shape.requirement, usable)
        if placed is not None:
            return Admission(reservations, found=(line, ticket, placed))
    return Admission(reservations)


def _reservations(
    pool: Pool, lines: Sequence[Line], max_overtakes: int
) -> tuple[tuple[fairness.Reservation, ...], set[str], bool]:
    """Choose cells for every ticket that reserves, by place.

    Returns:
        The reservations; the keys of lines for which nothing at all is left; and whether a line's front ran out
        before either was so.
    """
    waiting: list[tuple[Slot, Ticket, Line]] = []
    last_shown: set[str] = set()
    for line in lines:
        number = fairness.reserving(line, max_overtakes)
        # What does not fit even an idle machine is stranded: it could never use what it reserved.
        if number and place(pool, line.shape.requirement, pool.most) is not None:
            waiting.extend((ticket.slot, ticket, line) for ticket in line.tickets[:number])
            unserved = fairness.front(line)
            if line.truncated and (not unserved or unserved[-1].slot <= line.tickets[number - 1].slot):
                last_shown.add(unserved[-1].id if unserved else line.tickets[-1].id)
    waiting.sort(key=lambda entry: entry[0])
    left = dict(pool.free)
    made: list[fairness.Reservation] = []
    sated: set[str] = set()
    for _, ticket, line in waiting:
        # A nested ticket may pass those before it, so that nothing left over for it need not mean that it cannot fit.
        if line.shape.key in sated or (line.shape.nesting is None and fairness.exhausted(pool, line.shape, left)):
            sated.add(line.shape.key)
            continue
        wanted = fairness.preferred(pool, line.shape)
        cells = fairness.choose_cells(pool, wanted, ticket.reserved, left)
        made.append(fairness.Reservation(line.shape, ticket, wanted, cells))
        fairness.set_aside(left, cells)
        if ticket.id in last_shown:
            return tuple(made), sated, True
    return tuple(made), sated, False


def _candidates(
    lines: Sequence[Line], reservations: Sequence[fairness.Reservation], sated: set[str]
) -> Iterator[tuple[Line, Ticket, int]]:
    """Yield who may be granted, in order, with the number of reservations that each must heed."""
    by_key = {line.shape.key: line for line in lines}
    places = [reservation.ticket.slot for reservation in reservations]
    served = Counter(reservation.shape.key for reservation in reservations)
    heads: list[tuple[int, Slot, Line, Ticket]] = []
    for line in lines:
        # Where nothing is left over, only a gap can still be had.
        if line.shape.key not in sated or line.shape.expected is not None:
            heads.extend(
                (-line.shape.priority, head.slot, line, head) for head in line.tickets[served[line.shape.key] :][:1]
            )
    tried = 0
    for _, at, line, head in sorted(heads, key=lambda entry: entry[:2]):
        ahead = len(places) if line.shape.nesting else bisect(places, at)
        for position in range(tried, ahead):
            yield by_key[reservations[position].shape.key], reservations[position].ticket, position
        tried = max(tried, ahead)
        yield line, head, ahead
    for position in range(tried, len(places)):
        yield by_key[reservations[position].shape.key], reservations[position].ticket, position

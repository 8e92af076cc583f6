"""Admission: the reservations in one pool, and the first ticket that can be granted.

Candidates are the heads of the lines, by priority and slot, and the reserving tickets, by slot alone. Each candidate
sees the free amounts less the reservations ahead of it, except those that it may pass by backfill or as a nested
request.
"""

from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prefect_slots.model import Grant, Line, Slot, Ticket
from prefect_slots.scheduling import backfill, fairness, placement, wait_graph


@dataclass(frozen=True)
class Admission:
    """One look over a pool.

    Attributes:
        reservations: By slot, the order in which they are honored.
        found: The ticket to grant, with its line and its cells; `None` if none fits.
        need_more: A line's front ran out before its reservations were known; nothing is found then.
    """

    reservations: tuple[fairness.Reservation, ...]
    found: tuple[Line, Ticket, placement.Placed] | None = None
    need_more: bool = False


def admit(
    pool: placement.Pool,
    source: str | None,
    lines: Mapping[str, Line],
    grants: Mapping[str, Grant],
    max_overtakes: int,
    now: float,
) -> Admission:
    """Return the admission of the pool of `source` (`None` is the machine).

    Args:
        pool: The cells of `source`.
        source: The grant that serves the pool.
        lines: Those of the whole book, by key.
        grants: Those of the whole book, by id.
        max_overtakes: Overtakes after which a ticket reserves.
        now: Time of the decision, in seconds.
    """
    here = [line for line in lines.values() if line.tickets and line.shape.pool == source]
    reservations, sated, need_more = _reservations(pool, here, max_overtakes)
    if need_more:
        return Admission(reservations, need_more=True)
    graph = wait_graph.WaitGraph(pool, source, lines.values(), grants, reservations)
    gaps = backfill.Gaps(pool, source, grants.values(), reservations, now)
    # left[n] are the amounts that a candidate sees behind the first n reservations.
    left = [pool.free]
    for reservation in reservations:
        left.append(dict(left[-1]))
        fairness.set_aside(left[-1], reservation.cells)
    for line, ticket, ahead in _candidates(here, reservations, sated):
        usable, nesting = left[ahead], line.shape.nesting
        if ahead and (nesting or line.shape.expected is not None):
            heeded = [at for at in range(ahead) if nesting is None or not graph.passes(nesting, at)]
            late = [at for at in heeded if not gaps.let_in(line.shape, at)]
            # A cell that one late reservation needs is shut as a whole: otherwise a request that suits only some of the
            # reservations on it would pass a ticket that reserves nothing because the cell is used up.
            shut = {cell for at in late for cell, _ in reservations[at].cells}
            usable = dict(pool.free)
            for at in heeded:
                fairness.set_aside(usable, (held for held in reservations[at].cells if held.cell in shut))
        placed = placement.place(pool, line.shape.requirement, usable)
        if placed is not None:
            return Admission(reservations, found=(line, ticket, placed))
    return Admission(reservations)


def _reservations(
    pool: placement.Pool, lines: Sequence[Line], max_overtakes: int
) -> tuple[tuple[fairness.Reservation, ...], set[str], bool]:
    """Choose cells for every ticket that reserves, by place.

    Returns:
        The reservations; the keys of sated lines, for which nothing at all is left; and true if a line's front ran
        out before either was known.
    """
    waiting: list[tuple[Slot, Ticket, Line]] = []
    last_shown: set[str] = set()
    for line in lines:
        number = fairness.reserving(line, max_overtakes)
        # A ticket that does not fit even an idle machine is stranded: it could never use its reservation.
        if number and placement.place(pool, line.shape.requirement, pool.most) is not None:
            waiting.extend((ticket.slot, ticket, line) for ticket in line.tickets[:number])
            unserved = fairness.front(line)
            if line.truncated and (not unserved or unserved[-1].slot <= line.tickets[number - 1].slot):
                last_shown.add(unserved[-1].id if unserved else line.tickets[-1].id)
    waiting.sort(key=lambda entry: entry[0])
    left = dict(pool.free)
    made: list[fairness.Reservation] = []
    sated: set[str] = set()
    for _, ticket, line in waiting:
        # A nested ticket may pass the reservations before it, so that it may fit although nothing is left over.
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
    """Yield the candidates in order, each with the number of reservations ahead of it."""
    by_key = {line.shape.key: line for line in lines}
    places = [reservation.ticket.slot for reservation in reservations]
    served = Counter(reservation.shape.key for reservation in reservations)
    heads: list[tuple[int, Slot, Line, Ticket]] = []
    for line in lines:
        # In a sated line only a request with a known duration can still be granted, by backfill.
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

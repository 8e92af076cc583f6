"""What happens next: (book, event, now) -> (book, changes), one total function for every event.

The caller writes the changes and wakes whom they grant. A book may show only the front of each line; when a front is
used up the decision says `again`, and the caller loads and decides once more. Every grant is all or nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from prefect_slots.model.book import (
    Asked,
    Book,
    Change,
    Changed,
    Closed,
    Counted,
    Decision,
    Dequeued,
    Ended,
    Event,
    Freed,
    Grant,
    Granted,
    Holding,
    Left,
    Line,
    Nesting,
    Queued,
    Refused,
    Reserved,
    Resumed,
    Returned,
    Shape,
    SteppedAside,
    Ticket,
)
from prefect_slots.scheduling.fairness import (
    Reservation,
    WaitGraph,
    choose_cells,
    exhausted,
    is_hurt,
    overtaken,
    reserves,
    set_aside,
)
from prefect_slots.scheduling.placement import Pool, grant_pool, machine_pool, place

FRONT: Final = 4
"""How many tickets that do not reserve a view should show of each line."""


def decide(book: Book, event: Event, now: float, *, max_overtakes: int) -> Decision:
    """Return what to write after `event`, and the book as it then is.

    Args:
        book: The machine; for `Changed` it has the new cells already.
        event: What happened. Events about tickets and grants that are gone change nothing.
        now: Time of the decision in seconds; grants are stamped with it.
        max_overtakes: Later arrivals that may be granted before a ticket that competes with them; 0 is strict order.
    """
    desk = _Desk(book, now, max_overtakes)
    desk.note(event)
    while not desk.again and desk.settle_one():
        pass
    return Decision(book=desk.book(), changes=tuple(desk.changes), again=desk.again)


@dataclass(frozen=True)
class _Scan:
    """One look over a pool: the reservations in it, and the first ticket that can be granted."""

    pool: Pool
    reservations: tuple[Reservation, ...]
    found: tuple[Line, Ticket, tuple[Holding, ...]] | None
    need_more: bool


class _Desk:
    """A book being worked on, and the changes made so far."""

    def __init__(self, book: Book, now: float, max_overtakes: int) -> None:
        self.cells = book.cells
        self.grants = {grant.id: grant for grant in book.grants}
        self.lines = {line.shape.key: line for line in book.lines}
        self.now = now
        self.max_overtakes = max_overtakes
        self.changes: list[Change] = []
        self.again = False

    def book(self) -> Book:
        return Book(
            cells=self.cells,
            grants=tuple(self.grants.values()),
            lines=tuple(line for line in self.lines.values() if line.tickets),
        )

    # What happened

    def note(self, event: Event) -> None:
        match event:
            case Asked(shape=shape, ticket=ticket):
                self._queue(shape, ticket, counted=0)
            case Resumed(shape=shape, ticket=ticket, overtaken=counted):
                self._queue(shape, ticket, counted=counted)
            case Left(ticket=ticket_id):
                self._drop(ticket_id)
                self.changes.append(Dequeued(ticket=ticket_id))
            case Ended(grant=grant_id):
                if grant_id in self.grants:
                    self._end(self.grants[grant_id])
            case Returned(grant=grant_id, blocked_on=limit):
                grant = self.grants.pop(grant_id, None)
                if grant is not None:
                    self.changes.append(SteppedAside(grant=grant, blocked_on=limit))
            case Changed():
                pass

    def _queue(self, shape: Shape, ticket: Ticket, counted: int) -> None:
        line = self.lines.get(shape.key) or Line(shape=shape)
        ticket = replace(ticket, base=line.overtakes - counted, reserved=())
        self.changes.append(Queued(shape=shape, ticket=ticket))
        source = shape.pool
        if source is not None and (source not in self.grants or self.grants[source].closed):
            self.changes.append(Refused(ticket=ticket.id))
            return
        behind_the_front = line.truncated and line.tickets and ticket.seq > line.tickets[-1].seq
        if not behind_the_front:
            tickets = tuple(sorted((*line.tickets, ticket), key=lambda waiting: waiting.seq))
            line = replace(line, tickets=tickets)
        self.lines[shape.key] = line

    def _drop(self, ticket_id: str) -> None:
        for key, line in self.lines.items():
            kept = tuple(ticket for ticket in line.tickets if ticket.id != ticket_id)
            if len(kept) < len(line.tickets):
                self._show(key, replace(line, tickets=kept))
                return

    def _show(self, key: str, line: Line) -> None:
        self.lines[key] = line
        self.again = self.again or self._front_is_used_up(line)

    def _front_is_used_up(self, line: Line) -> bool:
        return line.truncated and all(reserves(line, ticket, self.max_overtakes) for ticket in line.tickets)

    def _end(self, grant: Grant) -> None:
        if any(other.shape.pool == grant.id for other in self.grants.values()):
            if not grant.closed:
                self.grants[grant.id] = replace(grant, closed=True)
                self.changes.append(Closed(grant=grant.id))
        else:
            del self.grants[grant.id]
            self.changes.append(Freed(grant=grant.id))
            source = grant.shape.pool
            if source is not None and source in self.grants and self.grants[source].closed:
                self._end(self.grants[source])
        for key, line in list(self.lines.items()):
            if line.shape.pool == grant.id:
                self.changes.extend(Refused(ticket=ticket.id) for ticket in line.tickets)
                del self.lines[key]

    # What follows

    def settle_one(self) -> bool:
        """Grant one ticket if any can be; else write down the reservations and say so."""
        scans: list[_Scan] = []
        for source in sorted({line.shape.pool or "" for line in self.lines.values() if line.tickets}):
            scan = self._scan(source or None)
            if scan.need_more:
                self._write_reservations(scan)
                self.again = True
                return False
            if scan.found is not None:
                self._grant(scan.pool, *scan.found)
                return True
            scans.append(scan)
        for scan in scans:
            self._write_reservations(scan)
        return False

    def _pool(self, source: str | None) -> Pool:
        book = Book(cells=self.cells, grants=tuple(self.grants.values()))
        return machine_pool(book) if source is None else grant_pool(book, self.grants[source])

    def _scan(self, source: str | None) -> _Scan:
        pool = self._pool(source)
        lines = [line for line in self.lines.values() if line.tickets and line.shape.pool == source]
        reservations, sated, need_more = self._reservations(pool, lines)
        found = None if need_more else self._first_that_fits(pool, lines, reservations, sated)
        return _Scan(pool, reservations, found, need_more)

    def _first_that_fits(
        self, pool: Pool, lines: list[Line], reservations: tuple[Reservation, ...], sated: set[str]
    ) -> tuple[Line, Ticket, tuple[Holding, ...]] | None:
        graph = WaitGraph.of(pool, lines, self.grants.values(), reservations)
        left = dict(pool.free)
        taken = 0
        for line, ticket, ahead in self._candidates(lines, reservations, sated):
            while taken < ahead:
                set_aside(left, reservations[taken].cells)
                taken += 1
            usable = left
            if line.shape.nesting and ahead:
                usable = dict(pool.free)
                for reservation in reservations[:ahead]:
                    if not self._passes(line.shape.nesting, reservation, graph):
                        set_aside(usable, reservation.cells)
            placed = place(pool, line.shape.requirement, usable)
            if placed is not None:
                return line, ticket, placed
        return None

    def _reservations(self, pool: Pool, lines: list[Line]) -> tuple[tuple[Reservation, ...], set[str], bool]:
        """Choose cells for every ticket that reserves, oldest first.

        Returns:
            The reservations; the keys of lines for which nothing at all is left; and whether a line's front ran out
            before either was so.
        """
        waiting = sorted(
            ((ticket, line) for line in lines for ticket in line.tickets if reserves(line, ticket, self.max_overtakes)),
            key=lambda pair: pair[0].seq,
        )
        left = dict(pool.free)
        made: list[Reservation] = []
        sated: set[str] = set()
        for ticket, line in waiting:
            if place(pool, line.shape.requirement, pool.most) is None:
                continue  # stranded: what it reserved could never be used
            if line.shape.key in sated or exhausted(pool, line.shape, left):
                sated.add(line.shape.key)
                continue
            cells = choose_cells(pool, line.shape, ticket.reserved, left)
            made.append(Reservation(line.shape, ticket, cells))
            set_aside(left, cells)
            if ticket.id == line.tickets[-1].id and self._front_is_used_up(line):
                return tuple(made), sated, True
        return tuple(made), sated, False

    def _candidates(
        self, lines: list[Line], reservations: tuple[Reservation, ...], sated: set[str]
    ) -> Iterator[tuple[Line, Ticket, int]]:
        """Yield who may be granted, in order, with the number of reservations ahead of each.

        Reservers come first, by arrival; then the head of each line, by priority and arrival.
        """
        by_key = {line.shape.key: line for line in lines}
        for ahead, reservation in enumerate(reservations):
            yield by_key[reservation.shape.key], reservation.ticket, ahead
        heads: list[tuple[int, int, Line, Ticket]] = []
        for line in lines:
            head = next((t for t in line.tickets if not reserves(line, t, self.max_overtakes)), None)
            if head is not None and line.shape.key not in sated:
                heads.append((-line.shape.priority, head.seq, line, head))
        for _, _, line, head in sorted(heads, key=lambda entry: entry[:2]):
            yield line, head, len(reservations)

    def _passes(self, nesting: Nesting, reservation: Reservation, graph: WaitGraph) -> bool:
        if nesting.source is not None:
            # Within one grant: whoever holds part of it already must get on, or its holder and the reserver wait for
            # each other; a request that holds none of it waits its turn.
            return nesting.parent != nesting.source
        return graph.waits_for(reservation.shape, nesting.root)

    def _write_reservations(self, scan: _Scan) -> None:
        chosen = {reservation.ticket.id: reservation.cells for reservation in scan.reservations}
        for line in list(self.lines.values()):
            if any(ticket.id in chosen for ticket in line.tickets):
                self._write_line(line, chosen)

    def _write_line(self, line: Line, chosen: dict[str, tuple[Holding, ...]]) -> None:
        tickets = tuple(replace(t, reserved=chosen.get(t.id, t.reserved)) for t in line.tickets)
        for before, after in zip(line.tickets, tickets, strict=True):
            if before.reserved != after.reserved:
                self.changes.append(Reserved(ticket=after.id, cells=after.reserved))
        self.lines[line.shape.key] = replace(line, tickets=tickets)

    def _grant(self, pool: Pool, line: Line, ticket: Ticket, placed: tuple[Holding, ...]) -> None:
        grant = Grant(
            id=ticket.id, shape=line.shape, holdings=placed, seq=ticket.seq, overtaken=overtaken(line, ticket)
        )
        self.grants[grant.id] = grant
        self.changes.append(Granted(grant=grant, at=self.now))
        for cell, amount in placed:
            pool.free[cell] -= amount
        for key, other in list(self.lines.items()):
            if key == line.shape.key or not other.tickets or other.shape.pool != line.shape.pool:
                continue
            if other.tickets[0].seq < ticket.seq and is_hurt(pool, other.shape, placed):
                self.lines[key] = replace(other, overtakes=other.overtakes + 1)
                self.changes.append(Counted(shape=other.shape, overtakes=other.overtakes + 1))
        kept = tuple(waiting for waiting in line.tickets if waiting.id != ticket.id)
        self._show(line.shape.key, replace(line, tickets=kept))

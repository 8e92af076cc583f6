"""The decision: (book, event, now) -> (book, changes), one total function for every event.

The caller writes the changes and wakes the owners of new grants. A book may show only the front of each line; when a
front is used up the decision says `again`, and the caller loads and decides once more, on `Changed()`. Every grant is
all or nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

from prefect_slots.model import book as model
from prefect_slots.scheduling import fairness, placement, round_robin
from prefect_slots.scheduling.admission import admit


def decide(book: model.Book, event: model.Event, now: float, *, max_overtakes: int) -> model.Decision:
    """Return the changes after `event`, and the book with them.

    Args:
        book: The machine; for `Changed` it has the new cells already.
        event: The event. Events about tickets and grants that are gone change nothing.
        now: Time of the decision in seconds, on a clock that never jumps: the ends of grants are counted from it.
        max_overtakes: Overtakes after which a ticket reserves; 0 is strict order.
    """
    desk = _Desk(book, now, max_overtakes)
    desk.note(event)
    while not desk.again and desk.settle_one():
        pass
    desk.write_reservations()
    return model.Decision(book=desk.book(), changes=tuple(desk.changes), again=desk.again)


class _Desk:
    """A book being worked on, and the changes made so far."""

    def __init__(self, book: model.Book, now: float, max_overtakes: int) -> None:
        self.cells = book.cells
        self.grants = {grant.id: grant for grant in book.grants}
        self.lines = {line.shape.key: line for line in book.lines}
        self.written = {ticket.id: ticket.reserved for line in book.lines for ticket in line.tickets if ticket.reserved}
        self.now = now
        self.max_overtakes = max_overtakes
        self.changes: list[model.Change] = []
        self.again = False

    def book(self) -> model.Book:
        return model.Book(
            cells=self.cells,
            grants=tuple(self.grants.values()),
            lines=tuple(line for line in self.lines.values() if line.tickets),
        )

    # The event

    def note(self, event: model.Event) -> None:
        match event:
            case model.Asked(shape=shape, ticket=ticket, tails=tails):
                pool = self._source(shape.pool)
                turn = round_robin.next_turn(pool, shape, tails, self.lines) if pool else 0
                self._queue(shape, replace(ticket, turn=turn), counted=0)
            case model.Resumed(shape=shape, ticket=ticket, overtaken=counted):
                pool = self._source(shape.pool)
                turn = round_robin.turn_of_return(pool, shape, ticket, self.lines) if pool else 0
                self._queue(shape, replace(ticket, turn=turn), counted=counted)
            case model.Left(ticket=ticket_id):
                self._drop(ticket_id)
                self.changes.append(model.Dequeued(ticket=ticket_id))
            case model.Ended(grant=grant_id):
                if grant_id in self.grants:
                    self._end(self.grants[grant_id])
            case model.Returned(grant=grant_id, blocked_on=limit):
                # A grant that others draw on is past being refused: its task runs.
                if grant_id in self.grants and not self._is_drawn_on(grant_id):
                    grant = self.grants.pop(grant_id)
                    self.changes.append(model.SteppedAside(grant=grant, blocked_on=limit))
                    self._refuse_draws(grant_id)
            case model.Changed():
                self._refuse_hopeless_draws()

    def _queue(self, shape: model.Shape, ticket: model.Ticket, counted: int) -> None:
        opened = shape.key not in self.lines
        line = self.lines.get(shape.key, model.Line(shape=shape))
        if line.tickets and ticket.slot < line.end:
            # A ticket that is put ahead of others counts as overtaken as often as they: while it does not reserve, the
            # tickets behind it in its line do not either.
            counted = max(counted, fairness.overtaken(line, line.tickets[0]))
        ticket = replace(ticket, base=line.overtakes - counted, reserved=())
        self.changes.append(model.Queued(shape=shape, ticket=ticket))
        source = shape.pool
        if source is not None and (source not in self.grants or self.grants[source].closed):
            self.changes.append(model.Refused(ticket=ticket.id))
            return
        if opened:
            # A table may still hold the count of a line whose tickets all stand aside; the base above knows none.
            self.changes.append(model.Counted(shape=shape, overtakes=0))
        unserved = fairness.front(line)
        if line.last is not None:
            line = replace(line, last=max(line.last, ticket.slot))
        behind_the_front = line.truncated and unserved and ticket.slot > unserved[-1].slot
        if not behind_the_front:
            line = replace(line, tickets=tuple(sorted((*line.tickets, ticket), key=lambda waiting: waiting.slot)))
        self.lines[shape.key] = line

    def _drop(self, ticket_id: str) -> None:
        for line in self.lines.values():
            if any(ticket.id == ticket_id for ticket in line.tickets):
                self._take_out(line, ticket_id)
                return

    def _take_out(self, line: model.Line, ticket_id: str) -> None:
        line = replace(line, tickets=tuple(ticket for ticket in line.tickets if ticket.id != ticket_id))
        self.lines[line.shape.key] = line
        self.again = self.again or (line.truncated and not fairness.front(line))

    def _is_drawn_on(self, grant_id: str) -> bool:
        return any(other.shape.pool == grant_id for other in self.grants.values())

    def _end(self, grant: model.Grant) -> None:
        if self._is_drawn_on(grant.id):
            if not grant.closed:
                self.grants[grant.id] = replace(grant, closed=True)
                self.changes.append(model.Closed(grant=grant.id))
        else:
            del self.grants[grant.id]
            self.changes.append(model.Freed(grant=grant.id))
            source = grant.shape.pool
            if source is not None and source in self.grants and self.grants[source].closed:
                self._end(self.grants[source])
        self._refuse_draws(grant.id)

    def _refuse_draws(self, source: str) -> None:
        # Nothing is ever freed for them: they would wait for ever.
        for line in list(self.lines.values()):
            if line.shape.pool == source:
                self._refuse_line(line)

    def _refuse_line(self, line: model.Line) -> None:
        self.changes.extend(model.Refused(ticket=ticket.id) for ticket in line.tickets)
        del self.lines[line.shape.key]

    def _refuse_hopeless_draws(self) -> None:
        # A share of a card that has grown may be more than the grant, taken when it was small, holds in all.
        for line in list(self.lines.values()):
            if line.shape.pool is not None and line.tickets:
                pool = self._pool(line.shape.pool)
                if placement.place(pool, line.shape.requirement, pool.most) is None:
                    self._refuse_line(line)

    # Its consequences

    def settle_one(self) -> bool:
        """Update the reservations in every pool and grant one ticket if any fits; return whether one was granted."""
        # In a fixed order: the same book leads to the same decision in every process.
        for source in sorted({line.shape.pool or "" for line in self.lines.values() if line.tickets}):
            pool = self._pool(source or None)
            admission = admit(pool, source or None, self.lines, self.grants, self.max_overtakes, self.now)
            self._keep(admission.reservations)
            if admission.need_more:
                self.again = True
                return False
            if admission.found is not None:
                line, ticket, placed = admission.found
                self._grant(pool, self.lines[line.shape.key], ticket, placed)
                return True
        return False

    def _source(self, source: str | None) -> placement.Pool | None:
        return self._pool(source) if source is None or source in self.grants else None

    def _pool(self, source: str | None) -> placement.Pool:
        book = model.Book(cells=self.cells, grants=tuple(self.grants.values()))
        return placement.machine_pool(book) if source is None else placement.grant_pool(book, self.grants[source])

    def _keep(self, reservations: Sequence[fairness.Reservation]) -> None:
        # Chosen cells are kept from the next look on: a view that shows less, and is looked at more often, must come to
        # the same result as the whole book.
        chosen = {reservation.ticket.id: reservation.cells for reservation in reservations}
        for key in {reservation.shape.key for reservation in reservations}:
            line = self.lines[key]
            tickets = tuple(
                ticket
                if chosen.get(ticket.id, ticket.reserved) == ticket.reserved
                else replace(ticket, reserved=chosen[ticket.id])
                for ticket in line.tickets
            )
            self.lines[key] = replace(line, tickets=tickets)

    def _grant(self, pool: placement.Pool, line: model.Line, ticket: model.Ticket, placed: placement.Placed) -> None:
        grant = model.Grant(
            id=ticket.id,
            shape=line.shape,
            holdings=placed.holdings,
            chosen=placed.chosen,
            seq=ticket.seq,
            turn=ticket.turn,
            run=ticket.run,
            overtaken=fairness.overtaken(line, ticket),
            ends=None if line.shape.expected is None else self.now + line.shape.expected,
        )
        self.grants[grant.id] = grant
        if grant.ends is not None:
            # A backfill passes reservations: the laws check against those of this very moment, so they are written now.
            self.write_reservations()
        self.changes.append(model.Granted(grant=grant))
        for cell, amount in placed.holdings:
            pool.free[cell] -= amount
        # Overtakes are counted per line: its tickets are interchangeable, and each keeps the count at which it was
        # queued.
        for key, other in list(self.lines.items()):
            if key == line.shape.key or not other.tickets or other.shape.pool != line.shape.pool:
                continue
            if other.tickets[0].slot < ticket.slot and fairness.is_hurt(pool, other.shape, placed.holdings):
                self.lines[key] = replace(other, overtakes=other.overtakes + 1)
                self.changes.append(model.Counted(shape=other.shape, overtakes=other.overtakes + 1))
        self._take_out(line, ticket.id)

    def write_reservations(self) -> None:
        """Write every reservation that is not as it was written last, of tickets that still wait."""
        for line in self.lines.values():
            for ticket in line.tickets:
                if ticket.reserved != self.written.get(ticket.id, ()):
                    self.changes.append(model.Reserved(ticket=ticket.id, cells=ticket.reserved))
                    self.written[ticket.id] = ticket.reserved

"""A keeper of a book with tables, as the real ledger has them, that shows decisions truncated views."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

from prefect_slots.model.book import (
    FRONT,
    Book,
    CellState,
    Change,
    Changed,
    Closed,
    Counted,
    Dequeued,
    Event,
    Freed,
    Grant,
    Granted,
    Line,
    Queued,
    Refused,
    Reserved,
    Shape,
    SteppedAside,
    Ticket,
)
from prefect_slots.scheduling.decide import decide
from prefect_slots.testing.bookkeeping import with_tails


@dataclass
class _Row:
    """A waiting ticket as it would stand in a table."""

    shape: Shape
    ticket: Ticket
    aside: bool = False


def _ticket_of(grant: Grant) -> Ticket:
    return Ticket(id=grant.id, seq=grant.seq, turn=grant.turn, run=grant.run)


@dataclass
class _Tables:
    cells: tuple[CellState, ...]
    grants: dict[str, Grant] = field(default_factory=dict[str, Grant])
    rows: dict[str, _Row] = field(default_factory=dict[str, _Row])
    overtakes: dict[str, int] = field(default_factory=dict[str, int])


class TruncatingLedger:
    """A keeper that believes nothing but the changes, and shows decisions only the front of each line.

    A view holds every ticket with stored reservations and the first `front` others of each line. Like a ledger with
    tables it keeps a line's count while any ticket of the line is known, those that stepped aside included.
    """

    def __init__(self, cells: tuple[CellState, ...], *, max_overtakes: int, front: int = FRONT) -> None:
        """Start with an idle machine."""
        self._tables = _Tables(cells)
        self._max_overtakes = max_overtakes
        self._front = front

    def apply(self, event: Event, now: float) -> tuple[Change, ...]:
        """Apply `event`; see `BookKeeper`."""
        written: list[Change] = []
        event, again = with_tails(event, self.book()), True
        while again:
            decision = decide(self.view(), event, now, max_overtakes=self._max_overtakes)
            if decision.again and not decision.changes:
                raise AssertionError("a decision that wrote nothing wants to be made again")
            for change in decision.changes:
                self._write(change)
            written.extend(decision.changes)
            event, again = Changed(), decision.again
        return tuple(written)

    def equip(self, cells: tuple[CellState, ...], now: float) -> tuple[Change, ...]:
        """Change the cells; see `BookKeeper`."""
        self._tables.cells = cells
        return self.apply(Changed(), now)

    def book(self) -> Book:
        """Return the whole book."""
        return self._shown(len(self._tables.rows))

    def view(self) -> Book:
        """Return what a decision is shown."""
        return self._shown(self._front)

    def _shown(self, front: int) -> Book:
        waiting: dict[str, list[_Row]] = defaultdict(list)
        for row in sorted(self._tables.rows.values(), key=lambda row: row.ticket.slot):
            if not row.aside:
                waiting[row.shape.key].append(row)
        lines: list[Line] = []
        for key, rows in waiting.items():
            others = [row.ticket for row in rows if not row.ticket.reserved]
            shown = [row.ticket for row in rows if row.ticket.reserved] + others[:front]
            lines.append(
                Line(
                    shape=rows[0].shape,
                    overtakes=self._tables.overtakes[key],
                    tickets=tuple(sorted(shown, key=lambda ticket: ticket.slot)),
                    truncated=len(others) > front,
                    last=rows[-1].ticket.slot if len(others) > front else None,
                )
            )
        return Book(cells=self._tables.cells, grants=tuple(self._tables.grants.values()), lines=tuple(lines))

    def _write(self, change: Change) -> None:
        tables = self._tables
        match change:
            case Queued(shape=shape, ticket=ticket):
                tables.overtakes.setdefault(shape.key, 0)
                tables.rows[ticket.id] = _Row(shape, ticket)
            case Granted(grant=grant):
                self._forget(grant.id)
                tables.grants[grant.id] = grant
            case Dequeued(ticket=ticket) | Refused(ticket=ticket):
                self._forget(ticket)
            case Closed(grant=grant):
                tables.grants[grant] = replace(tables.grants[grant], closed=True)
            case Freed(grant=grant):
                del tables.grants[grant]
            case SteppedAside(grant=grant):
                del tables.grants[grant.id]
                tables.overtakes.setdefault(grant.shape.key, 0)
                tables.rows[grant.id] = _Row(grant.shape, _ticket_of(grant), aside=True)
            case Counted(shape=shape, overtakes=overtakes):
                tables.overtakes[shape.key] = overtakes
            case Reserved(ticket=ticket, cells=cells):
                tables.rows[ticket].ticket = replace(tables.rows[ticket].ticket, reserved=cells)

    def _forget(self, ticket: str) -> None:
        gone = self._tables.rows.pop(ticket, None)
        if gone is not None and not any(row.shape.key == gone.shape.key for row in self._tables.rows.values()):
            del self._tables.overtakes[gone.shape.key]

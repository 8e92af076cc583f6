"""Keepers of a machine's book: the protocol of a ledger under test, and the model in memory.

A new ledger is tested by a small adapter to `BookKeeper`: `machines.BookMachine` then drives it beside the model and
compares the books after every event. A keeper stores and shows the book; the decisions are `decide`'s.
"""

from dataclasses import replace
from typing import Protocol

from prefect_slots.model import Asked, Book, CellState, Change, Changed, Event, Line
from prefect_slots.scheduling.decide import decide


class BookKeeper(Protocol):
    """Keeper of one machine's book: `decide` answers each event, and the keeper stores the changes.

    `apply` is one transaction. It decides once more, on `Changed()`, while a decision says `again`.
    """

    def apply(self, event: Event, now: float, /) -> tuple[Change, ...]:
        """Apply `event` and return all changes, in order."""
        ...

    def equip(self, cells: tuple[CellState, ...], now: float, /) -> tuple[Change, ...]:
        """Make these the machine's cells, then apply `Changed()`."""
        ...

    def book(self) -> Book:
        """Return the whole book: every waiting ticket of every line, none truncated."""
        ...


def normalised(book: Book) -> Book:
    """Return `book` in a form in which equal states are equal, independent of the keeper.

    Order does not matter, a line without tickets is no line, and only the difference between a line's count and a
    ticket's base means anything.
    """
    # A base is a reading of the line's counter: keepers may start the counter at different values.
    lines = [
        Line(
            shape=line.shape,
            tickets=tuple(
                replace(ticket, base=ticket.base - line.overtakes)
                for ticket in sorted(line.tickets, key=lambda ticket: ticket.slot)
            ),
        )
        for line in book.lines
        if line.tickets
    ]
    return Book(
        cells=tuple(sorted(book.cells, key=lambda cell: cell.id)),
        grants=tuple(sorted(book.grants, key=lambda grant: grant.id)),
        lines=tuple(sorted(lines, key=lambda line: line.shape.key)),
    )


def with_tails(event: Event, book: Book) -> Event:
    """Return `event` with the turns of the requester's run in the whole `book`."""
    if not isinstance(event, Asked) or not event.ticket.run:
        return event
    found: list[tuple[str, int]] = []
    for line in book.lines:
        turns = [ticket.turn for ticket in line.tickets if ticket.run == event.ticket.run]
        # Nested tickets have no turn, and turns are compared within one priority only.
        if turns and line.shape.nesting is None and line.shape.priority == event.shape.priority:
            found.append((line.shape.key, max(turns)))
    return replace(event, tails=tuple(found))


class MemoryLedger:
    """The model: the whole book in memory, shown whole to every decision."""

    def __init__(self, cells: tuple[CellState, ...], *, max_overtakes: int) -> None:
        """Start with an idle machine."""
        self._book = Book(cells=cells)
        self._max_overtakes = max_overtakes

    def apply(self, event: Event, now: float) -> tuple[Change, ...]:
        """Apply `event`; see `BookKeeper`."""
        decision = decide(self._book, with_tails(event, self._book), now, max_overtakes=self._max_overtakes)
        # Only a truncated view may ask for another decision.
        if decision.again:
            raise AssertionError("a book that shows every ticket was not enough to decide on")
        self._book = decision.book
        return decision.changes

    def equip(self, cells: tuple[CellState, ...], now: float) -> tuple[Change, ...]:
        """Change the cells; see `BookKeeper`."""
        self._book = replace(self._book, cells=cells)
        return self.apply(Changed(), now)

    def book(self) -> Book:
        """Return the whole book."""
        return self._book

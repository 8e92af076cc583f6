"""Events of one machine's book, applied to one or more keepers at once.

Choices are plain integers, taken modulo the number of options, so that any sequence of numbers is a play and a
failing one shrinks well. All keepers must show equal books after every event.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeVar

from prefect_slots.model import Asked, Book, CellState, Change, Ended, Event, Grant, Requirement, Scope, Shape, Ticket
from prefect_slots.model.book import Left, Resumed, Returned, SteppedAside
from prefect_slots.scheduling.nesting import RefusedNesting, chain_of, nest
from prefect_slots.testing.bookkeeping import BookKeeper, normalised

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One event and its changes.

    Attributes:
        now: Time of the event in seconds, on the clock of the decisions.
        before: The book before the event; its cells are the new ones if they changed.
        event: The event; `None` if the cells changed.
    """

    now: float
    before: Book
    event: Event | None
    changes: tuple[Change, ...]
    after: Book


def waiting(book: Book) -> dict[str, tuple[Shape, Ticket]]:
    """Return the tickets that wait in `book`, by id."""
    return {ticket.id: (line.shape, ticket) for line in book.lines for ticket in line.tickets}


class Play:
    """A machine and the processes on it.

    Attributes:
        watchers: Called with every step.
        ancestors: Ids of the grants around each ticket ever asked for, those that have ended included.
        aside: Former grants that the server sent back and that have not been resumed, by ticket.
    """

    def __init__(
        self,
        cells: tuple[CellState, ...],
        keepers: Sequence[BookKeeper],
        scopes: Mapping[str, Scope] | None = None,
        *,
        tick: float = 1.0,
    ) -> None:
        """Start with `cells`, which all keepers must have been given; every event takes `tick` seconds."""
        self.watchers: list[Callable[[Step], None]] = []
        self.ancestors: dict[str, tuple[str, ...]] = {}
        self.aside: dict[str, Grant] = {}
        # Draining needs the first capacities: a cell may have shrunk below a waiting request.
        self._original = cells
        self._cells = cells
        self._keepers = tuple(keepers)
        self._scopes = dict(scopes or {})
        self._arrivals = count(1)
        self._now = 0.0
        self._tick = tick

    @property
    def book(self) -> Book:
        """The book as it is now."""
        return self._keepers[0].book()

    # Events

    def ask(self, requirement: Requirement, priority: int = 0, run: str = "", expected: float | None = None) -> str:
        """Ask for the machine's cells, outside any grant, for a run; return the ticket's id."""
        return self._ask(Shape(requirement=requirement, priority=priority, expected=expected), (), run=run)

    def ask_inside(self, where: int, requirement: Requirement, priority: int = 0) -> str | None:
        """Ask inside one of the grants; return the ticket's id, or `None` if the request was refused."""
        return self.ask_inside_any(where, [requirement], priority)

    def ask_inside_any(
        self, where: int, wishes: Sequence[Requirement], priority: int = 0, expected: float | None = None
    ) -> str | None:
        """Ask inside one of the grants for the first of `wishes` that may be asked for there.

        Returns:
            The ticket's id, or `None` if all were refused.
        """
        grants = self.book.grants
        parent = _pick(grants, where) if grants else None
        if parent is None:
            return None
        for requirement in wishes:
            ticket = f"t{next(self._arrivals)}"
            answer = nest(self.book, requirement, chain_of(self.book, parent.id), ticket, self._scopes)
            if not isinstance(answer, RefusedNesting):
                shape = Shape(requirement=requirement, priority=priority, expected=expected, nesting=answer.nesting)
                self._ask(shape, (parent.id, *self.ancestors[parent.id]), ticket)
                # A nested request that may not wait leaves the queue at once, as `acquire` does.
                if answer.may_wait or ticket not in waiting(self.book):
                    return ticket
                self._apply(Left(ticket=ticket))
        return None

    def end(self, which: int) -> None:
        """End one of the open grants, whatever goes on inside it."""
        grants = [grant for grant in self.book.grants if not grant.closed]
        if grants:
            self._apply(Ended(grant=_pick(grants, which).id))

    def leave(self, which: int) -> None:
        """Let one of the tickets leave that wait or stand aside."""
        tickets = [*waiting(self.book), *self.aside]
        if tickets:
            ticket = _pick(tickets, which)
            self.aside.pop(ticket, None)
            self._apply(Left(ticket=ticket))

    def refuse(self, which: int, limit: str = "license:matlab") -> None:
        """Let the server refuse one of the grants whose task has not begun."""
        # The server is asked before the task begins, so a grant with anything inside was never refused.
        grants = [grant for grant in self.book.grants if grant.shape.pool is None and not self._within(grant.id)]
        if grants:
            self._apply(Returned(grant=_pick(grants, which).id, blocked_on=limit))

    def resume(self, which: int) -> None:
        """Put one of the tickets that stand aside back into its line."""
        if self.aside:
            ticket = _pick(list(self.aside), which)
            was = self.aside.pop(ticket)
            old = Ticket(id=ticket, seq=was.seq, turn=was.turn, run=was.run)
            self._apply(Resumed(shape=was.shape, ticket=old, overtaken=was.overtaken))

    def use(self, which: int, foreign: int) -> None:
        """Set the foreign use of one cell."""
        self._change(which, foreign=foreign)

    def resize(self, which: int, capacity: int) -> None:
        """Give one cell another capacity."""
        self._change(which, capacity=capacity)

    def pass_time(self, seconds: float) -> None:
        """Advance the clock without an event."""
        self._now += seconds

    def restore(self) -> None:
        """Give all cells their first capacity, without foreign use."""
        self._equip(self._original)

    def drain(self, order: Iterable[int]) -> None:
        """Let everybody finish, in some order, as `with` blocks do: a grant ends when nothing inside it waits or holds.

        Raises:
            AssertionError: if a ticket waits for ever.
        """
        numbers = iter(order)
        self.restore()
        # Tickets aside wait for the server alone; unless they are resumed they would look deadlocked.
        while self.aside:
            self.resume(next(numbers, 0))
        # A parent ends after its children, as nested `with` blocks do: the other order is tested by `end`.
        while endable := self._endable():
            self._apply(Ended(grant=_pick(endable, next(numbers, 0)).id))
        left = waiting(self.book)
        if left:
            held = {grant.id: grant.holdings for grant in self.book.grants}
            raise AssertionError(f"deadlock: {left} wait for ever, while these are held: {held}")
        if self.book.grants:
            raise AssertionError(f"grants that nobody can end: {self.book.grants}")

    # Machinery

    def _endable(self) -> list[Grant]:
        return [grant for grant in self.book.grants if not grant.closed and not self._within(grant.id)]

    def _within(self, grant: str) -> bool:
        inside = (*waiting(self.book), *self.aside, *(other.id for other in self.book.grants))
        return any(grant in self.ancestors[ticket] for ticket in inside)

    def _ask(self, shape: Shape, ancestors: tuple[str, ...], ticket: str | None = None, run: str = "") -> str:
        # Numbers of tickets and of arrivals are one sequence: equal plays get equal ids.
        seq = next(self._arrivals)
        ticket = ticket or f"t{seq}"
        self.ancestors[ticket] = ancestors
        self._apply(Asked(shape=shape, ticket=Ticket(id=ticket, seq=seq, run=run)))
        return ticket

    def _change(self, which: int, *, foreign: int | None = None, capacity: int | None = None) -> None:
        position = which % len(self._cells)
        cell = self._cells[position]
        # A change leaves the other fields, so that foreign use and capacity vary independently.
        cell = replace(
            cell,
            foreign=cell.foreign if foreign is None else foreign,
            capacity=cell.capacity if capacity is None else capacity,
        )
        self._equip((*self._cells[:position], cell, *self._cells[position + 1 :]))

    def _equip(self, cells: tuple[CellState, ...]) -> None:
        self._cells = cells
        # The event of a keeper is the change itself, so the book before it has the new cells.
        before = replace(self.book, cells=cells)
        self._now += self._tick
        self._settle(before, None, [keeper.equip(cells, self._now) for keeper in self._keepers])

    def _apply(self, event: Event) -> None:
        before = self.book
        self._now += self._tick
        self._settle(before, event, [keeper.apply(event, self._now) for keeper in self._keepers])

    def _settle(self, before: Book, event: Event | None, written: list[tuple[Change, ...]]) -> None:
        for change in written[0]:
            if isinstance(change, SteppedAside):
                self.aside[change.grant.id] = change.grant
        after = self.book
        # Compared in normal form: order and bases are each keeper's own business.
        model = normalised(after)
        for keeper in self._keepers[1:]:
            kept = normalised(keeper.book())
            if kept != model:
                differences = "\n".join(_differences(model, kept))
                raise AssertionError(f"after {event or 'a change of cells'} the books differ:\n{differences}")
        step = Step(now=self._now, before=before, event=event, changes=written[0], after=after)
        for watch in self.watchers:
            watch(step)


def _pick(options: Sequence[T], choice: int) -> T:
    return options[choice % len(options)]


def _differences(model: Book, kept: Book) -> Iterator[str]:
    for name in ("cells", "grants", "lines"):
        ours, theirs = set(getattr(model, name)), set(getattr(kept, name))
        for entry in ours - theirs:
            yield f"only the model has {entry}"
        for entry in theirs - ours:
            yield f"the model has not {entry}"

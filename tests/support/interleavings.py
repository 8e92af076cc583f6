"""Every interleaving of a few small processes on one machine, breadth first: a failure comes with a shortest story.

The real `decide` and `nest` take every step. States are told apart only by what can matter later: arrivals and turns by
their order, overtakes up to the number allowed. Scripts may run for ever and the search still ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.support.laws import Overtakes, fits_idle

from prefect_slots.model.book import (
    Asked,
    Book,
    CellId,
    CellState,
    Changed,
    Decision,
    Ended,
    Event,
    Granted,
    Refused,
    Shape,
    Ticket,
)
from prefect_slots.model.requirement import Demand, Requirement
from prefect_slots.model.resource import Scope
from prefect_slots.scheduling.decide import decide
from prefect_slots.scheduling.nesting import RefusedNesting, chain_of, nest
from prefect_slots.testing.bookkeeping import with_tails
from prefect_slots.testing.play import Step, waiting

RELEASE = None
"""The step that ends a process's innermost grant."""


def ask(**amounts: int) -> Requirement:
    """Return the requirement of that much of each resource, each on one cell: `ask(a=1, c=2)`."""
    return Requirement.of(Demand(resource=name, amount=amount) for name, amount in amounts.items())


def cells(**capacities: Sequence[int]) -> tuple[CellState, ...]:
    """Return the cells of an idle machine: `cells(a=[1], c=[2, 2])`."""
    return tuple(
        CellState(id=CellId(name, number), capacity=units)
        for name, listed in capacities.items()
        for number, units in enumerate(listed)
    )


@dataclass(frozen=True)
class Process:
    """A process that runs through its script, for ever or once.

    Attributes:
        script: What it asks for, each request inside those not yet released, and `RELEASE`.
        priority: Of all its requests.
        once: Whether it stops at the end of the script.
        inside: The number of the process inside whose first grant it runs, as a thread or child does.
        run: For whom it asks outside any grant.
        joins: Whether it ends its first grant only when everything that runs inside it has come to its end.
    """

    script: tuple[Requirement | None, ...]
    priority: int = 0
    once: bool = False
    inside: int | None = None
    run: str = ""
    joins: bool = False


class _Place(NamedTuple):
    """Where a process is: its next step, how many grants it has, and whether it was refused and gives everything up."""

    step: int = 0
    depth: int = 0
    refused: bool = False


class _State(NamedTuple):
    """Where all processes are; `page` is the number of the book, `seen` how often each waiting one was overtaken."""

    places: tuple[_Place, ...]
    page: int
    seen: tuple[int, ...]
    cut: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a search found.

    Attributes:
        states: How many states there are.
        problem: What went wrong, or an empty text.
        story: The steps that lead there.
    """

    states: int
    problem: str = ""
    story: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n  ".join((f"{self.problem or 'nothing wrong'} in {self.states} states", *self.story))


class Search:
    """All interleavings of `processes` on a machine of `cells`."""

    def __init__(
        self,
        machine: tuple[CellState, ...],
        processes: Sequence[Process],
        *,
        max_overtakes: int,
        cut: tuple[CellState, ...] | None = None,
        scopes: Mapping[str, Scope] | None = None,
    ) -> None:
        """Prepare the search; `cut` are the cells as they are after a change that may come at any moment."""
        self._machine = machine
        self._processes = tuple(processes)
        self._max_overtakes = max_overtakes
        self._cut = cut
        self._scopes = dict(scopes or {})
        nested = sum(_nested_requests(process) for process in self._processes)
        self._bound = max_overtakes + 2 * nested
        self._pages: dict[Book, int] = {}
        self._books: list[Book] = []
        self._decided: dict[tuple[int, Event], tuple[int, Decision]] = {}

    def run(self, limit: int = 1_000_000) -> Outcome:
        """Search, and stop at the first state that breaks a law.

        Raises:
            AssertionError: if there are more than `limit` states.
        """
        nobody = tuple(0 for _ in self._processes)
        first = _State(tuple(_Place() for _ in self._processes), self._page(Book(cells=self._machine)), nobody)
        came: dict[_State, tuple[_State, str] | None] = {first: None}
        back: dict[_State, list[_State]] = {}
        todo = deque([first])
        while todo:
            state = todo.popleft()
            following = list(self._moves(state))
            if not following and not self._finished(state):
                return Outcome(states=len(came), problem="deadlock", story=self._story(came, state))
            for label, after in following:
                back.setdefault(after, []).append(state)
                if after not in came:
                    assert len(came) < limit, f"more than {limit} states"
                    came[after] = (state, label)
                    todo.append(after)
                    if max(after.seen) > self._bound:
                        problem = f"overtaken more than {self._bound} times"
                        return Outcome(states=len(came), problem=problem, story=self._story(came, after))
        return self._starving(came, back)

    def _starving(
        self, came: Mapping[_State, tuple[_State, str] | None], back: Mapping[_State, list[_State]]
    ) -> Outcome:
        for number in range(len(self._processes)):
            good = {state for state in came if not self._hopes(state, number)}
            todo = list(good)
            while todo:
                for before in back.get(todo.pop(), ()):
                    if before not in good:
                        good.add(before)
                        todo.append(before)
            for state in came:
                if state not in good:
                    problem = f"P{number} can never be granted any more"
                    return Outcome(states=len(came), problem=problem, story=self._story(came, state))
        return Outcome(states=len(came))

    def _hopes(self, state: _State, number: int) -> bool:
        book = self._books[state.page]
        shape, _ = waiting(book).get(f"{number}.{state.places[number].depth}", (None, None))
        return shape is not None and fits_idle(book, shape)

    def _finished(self, state: _State) -> bool:
        return all(
            process.once and place.step >= len(process.script)
            for place, process in zip(state.places, self._processes, strict=True)
        )

    # One step

    def _moves(self, state: _State) -> Iterator[tuple[str, _State]]:
        waits = waiting(self._books[state.page])
        for number, (process, place) in enumerate(zip(self._processes, state.places, strict=True)):
            if f"{number}.{place.depth}" in waits or (process.once and place.step >= len(process.script)):
                continue
            yield from self._move(state, number, process, place)
        if self._cut is not None and not state.cut:
            book = replace(self._books[state.page], cells=self._cut)
            yield "the cells change", self._settle(state._replace(page=self._page(book), cut=True), Changed())

    def _move(self, state: _State, number: int, process: Process, place: _Place) -> Iterator[tuple[str, _State]]:
        grants = {grant.id for grant in self._books[state.page].grants if not grant.closed}
        outer = process.inside
        if outer is not None and place.depth == 0 and f"{outer}.0" not in grants:
            if state.places[outer].step > 0 or place.refused:
                yield f"P{number} comes too late", _put(state, number, _Place(step=len(process.script)))
            return
        wanted = process.script[place.step % len(process.script)]
        if place.refused or wanted is None:
            if place.depth == 0:
                yield f"P{number} gives up", _put(state, number, _Place(step=len(process.script)))
            elif not (place.depth == 1 and process.joins and self._is_joined(state, number)):
                yield f"P{number} releases", self._release(state, number, process, place)
            return
        parent = f"{number}.{place.depth - 1}" if place.depth else None if outer is None else f"{outer}.0"
        after = self._asked(state, number, wanted, process, parent)
        if after is None:
            yield f"P{number} is refused {wanted.describe()}", _put(state, number, place._replace(refused=True))
        else:
            yield f"P{number} asks for {wanted.describe()}", after

    def _is_joined(self, state: _State, number: int) -> bool:
        return any(
            inner.inside == number and place.step < len(inner.script)
            for inner, place in zip(self._processes, state.places, strict=True)
        )

    def _release(self, state: _State, number: int, process: Process, place: _Place) -> _State:
        step = place.step if place.refused else place.step + 1
        if not process.once:
            step %= len(process.script)
        after = place._replace(step=step, depth=place.depth - 1)
        return self._settle(_put(state, number, after), Ended(grant=f"{number}.{place.depth - 1}"))

    def _asked(
        self, state: _State, number: int, wanted: Requirement, process: Process, parent: str | None
    ) -> _State | None:
        book = self._books[state.page]
        ticket = Ticket(id=f"{number}.{state.places[number].depth}", seq=len(waiting(book)) + 1, run=process.run)
        if parent is None:
            shape = Shape(requirement=wanted, priority=process.priority)
            return self._settle(state, with_tails(Asked(shape=shape, ticket=ticket), book))
        answer = nest(book, wanted, chain_of(book, parent), ticket.id, self._scopes)
        if isinstance(answer, RefusedNesting):
            return None
        shape = Shape(requirement=wanted, priority=process.priority, nesting=answer.nesting)
        after = self._settle(state, Asked(shape=shape, ticket=ticket))
        return None if not answer.may_wait and ticket.id in waiting(self._books[after.page]) else after

    def _settle(self, state: _State, event: Event) -> _State:
        if (state.page, event) not in self._decided:
            decision = decide(self._books[state.page], event, 0.0, max_overtakes=self._max_overtakes)
            assert not decision.again
            self._decided[state.page, event] = self._page(self._canonical(decision.book)), decision
        page, decision = self._decided[state.page, event]
        places = list(state.places)
        for change in decision.changes:
            if isinstance(change, Granted):
                number = _number(change.grant.id)
                place = places[number]
                places[number] = place._replace(step=place.step + 1, depth=place.depth + 1)
            elif isinstance(change, Refused):
                number = _number(change.ticket)
                places[number] = places[number]._replace(refused=True)
        return _State(tuple(places), page, self._seen(state, event, decision), state.cut)

    def _seen(self, state: _State, event: Event, decision: Decision) -> tuple[int, ...]:
        waits = waiting(decision.book)
        observer = Overtakes(self._max_overtakes)
        for number, count in enumerate(state.seen):
            observer.seen[f"{number}.{state.places[number].depth}"] = count
        if waits and any(isinstance(change, Granted) for change in decision.changes):
            before = self._books[state.page]
            observer.watch(Step(now=0.0, before=before, event=event, changes=decision.changes, after=decision.book))
        seen = [0] * len(self._processes)
        for ticket in waits:
            seen[_number(ticket)] = min(observer.seen[ticket], self._bound + 1)
        return tuple(seen)

    def _page(self, book: Book) -> int:
        page = self._pages.setdefault(book, len(self._books))
        if page == len(self._books):
            self._books.append(book)
        return page

    def _story(self, came: Mapping[_State, tuple[_State, str] | None], state: _State) -> tuple[str, ...]:
        told = [str(self._books[state.page])]
        at = came[state]
        while at is not None:
            told.append(at[1])
            at = came[at[0]]
        return tuple(reversed(told))

    def _canonical(self, book: Book) -> Book:
        order = sorted(ticket.seq for _, ticket in waiting(book).values())
        turns = sorted({ticket.turn for _, ticket in waiting(book).values()})
        lines = [
            replace(
                line,
                overtakes=0,
                tickets=tuple(
                    replace(
                        ticket,
                        seq=order.index(ticket.seq) + 1,
                        turn=turns.index(ticket.turn) + 1,
                        base=-min(line.overtakes - ticket.base, self._max_overtakes),
                    )
                    for ticket in line.tickets
                ),
            )
            for line in book.lines
        ]
        return Book(
            cells=book.cells,
            grants=tuple(
                sorted(
                    (replace(grant, seq=0, turn=0, run="", overtaken=0) for grant in book.grants),
                    key=lambda grant: grant.id,
                )
            ),
            lines=tuple(sorted(lines, key=lambda line: line.shape.key)),
        )


def _number(ticket: str) -> int:
    return int(ticket.partition(".")[0])


def _nested_requests(process: Process) -> int:
    return sum(1 for step in process.script if step is not None) - (1 if process.inside is None else 0)


def _put(state: _State, number: int, place: _Place) -> _State:
    return state._replace(places=(*state.places[:number], place, *state.places[number + 1 :]))

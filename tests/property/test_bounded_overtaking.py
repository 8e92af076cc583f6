"""Law 5: at most K later arrivals that compete for its cells are granted before a ticket, plus two per nested request.

Overtakes are counted from the books alone. Exact bounds with nested requests are in `test_every_interleaving`.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.property.effort import effort
from tests.support import laws
from tests.support.interleavings import ask, cells

from prefect_slots.model.book import Book, CellId, Granted, Holding
from prefect_slots.testing.bookkeeping import MemoryLedger
from prefect_slots.testing.machines import BookMachine
from prefect_slots.testing.play import Play, Step, waiting
from prefect_slots.testing.strategies import Situation, situations


class BoundedOvertaking(BookMachine):
    overtakes: laws.Overtakes | None = None

    def watch(self, step: Step) -> None:
        if self.overtakes is None:
            self.overtakes = laws.Overtakes(self.situation.max_overtakes)
        self.overtakes.watch(step)
        self.overtakes.check(step.after)


TestBoundedOvertaking = BoundedOvertaking.TestCase
TestBoundedOvertaking.settings = effort(80)


@pytest.mark.parametrize("allowed", [0, 1, 2, 5])
def test_a_stream_of_urgent_requests_passes_a_lax_one_exactly_as_often_as_allowed(allowed: int) -> None:
    machine = cells(gpu=[2])
    play = Play(machine, [MemoryLedger(machine, max_overtakes=allowed)])
    play.ask(ask(gpu=2), priority=9)
    lax = play.ask(ask(gpu=2), priority=0)
    for _ in range(allowed + 3):
        play.ask(ask(gpu=2), priority=9)
    granted: list[str] = []
    play.watchers.append(
        lambda step: granted.extend(change.grant.id for change in step.changes if isinstance(change, Granted))
    )
    while lax not in granted:
        play.end(0)
    assert len(granted) == allowed + 1


@effort(170)
@given(situation=situations(wishes=4), moves=st.lists(st.tuples(st.booleans(), st.integers(0, 63)), max_size=40))
def test_once_it_reserves_a_ticket_waits_only_for_those_who_hold_then(
    situation: Situation, moves: list[tuple[bool, int]]
) -> None:
    # A reservation that moved about, or that later arrivals ate into, would be overtaken by nobody in particular and
    # still never be served.
    play = Play(situation.cells, [MemoryLedger(situation.cells, max_overtakes=situation.max_overtakes)])
    wishes = situation.wishes
    while not play.book.lines:
        play.ask(wishes[len(play.book.grants) % len(wishes)])
    (patient,) = waiting(play.book)
    holders: set[str] | None = None
    for asks, number in moves:
        if asks:
            play.ask(wishes[number % len(wishes)], priority=number % 3)
        else:
            play.end(number)
        if patient not in waiting(play.book):
            return
        if holders is None and waiting(play.book)[patient][1].reserved:
            holders = {grant.id for grant in play.book.grants}
        elif holders is not None and not asks:
            holders &= {grant.id for grant in play.book.grants}
    if holders is not None:
        for grant in holders:
            play.end([other.id for other in play.book.grants].index(grant))
        assert patient not in waiting(play.book), f"{patient} reserved, all who held then are gone: {play.book}"


@effort(170)
@given(
    situation=situations(wishes=4),
    asks=st.lists(st.tuples(st.booleans(), st.integers(0, 63), st.integers(1, 9)), max_size=40),
)
def test_where_everybody_keeps_his_word_the_first_in_line_starts_when_it_could_have_without_those_behind_it(
    situation: Situation, asks: list[tuple[bool, int, int]]
) -> None:
    play = Play(situation.cells, [MemoryLedger(situation.cells, max_overtakes=0)], tick=0.0)
    promised: dict[str, float] = {}

    def watch(step: Step) -> None:
        for change in step.changes:
            if isinstance(change, Granted):
                assert step.now <= promised.get(change.grant.id, step.now), f"{change.grant} is late: {step}"
        tickets = [ticket for _, ticket in waiting(step.after).values()]
        first = min(tickets, key=lambda ticket: ticket.slot, default=None)
        if first is not None and first.reserved and first.id not in promised:
            promised[first.id] = _could_start(step.after, step.now, first.reserved)

    def end_the_next() -> None:
        grants = play.book.grants
        number, grant = min(enumerate(grants), key=lambda entry: entry[1].ends or 0)
        play.pass_time((grant.ends or 0) - now())
        play.end(number)

    times: list[float] = [0.0]

    def now() -> float:
        return times[-1]

    play.watchers += [lambda step: times.append(step.now), watch]
    for asks_first, number, seconds in asks:
        if asks_first or not play.book.grants:
            play.ask(situation.wishes[number % len(situation.wishes)], expected=seconds)
        else:
            end_the_next()
    while play.book.grants:
        end_the_next()
    assert not waiting(play.book)


def _could_start(book: Book, now: float, cells: tuple[Holding, ...]) -> float:
    """Return when what is reserved is free if everybody who holds now ends as he said."""
    capacity = {cell.id: cell.effective for cell in book.cells}

    def free(cell: CellId, at: float) -> int:
        held = [grant for grant in book.grants if (grant.ends or 0) > at]
        return capacity[cell] - sum(amount for grant in held for at_cell, amount in grant.holdings if at_cell == cell)

    moments = sorted({now, *(grant.ends or 0 for grant in book.grants)})
    return next(at for at in moments if all(free(cell, at) >= amount for cell, amount in cells))


def test_a_reservation_does_not_hop_to_a_cell_that_has_come_to_lack_less() -> None:
    machine = cells(g=[4, 4])
    play = Play(machine, [MemoryLedger(machine, max_overtakes=0)])
    for amount in (3, 3, 4):
        play.ask(ask(g=amount))
    (patient,) = waiting(play.book)
    (kept,) = waiting(play.book)[patient][1].reserved
    play.ask(ask(g=1))
    # All but one unit of the other cell comes free; whoever asks next may have that, and not what is kept.
    play.end(next(n for n, grant in enumerate(play.book.grants) if grant.holdings[0].cell != kept.cell))
    play.ask(ask(g=1))
    play.end(next(n for n, grant in enumerate(play.book.grants) if grant.holdings[0].cell == kept.cell))
    assert patient in {grant.id for grant in play.book.grants}


def test_a_ticket_that_the_server_sent_back_keeps_its_count() -> None:
    machine = cells(g=[2])
    play = Play(machine, [MemoryLedger(machine, max_overtakes=1)])
    for amount in (1, 2, 1):
        play.ask(ask(g=amount))
    play.end(0)
    play.end(0)
    (patient,) = (grant.id for grant in play.book.grants)
    play.refuse(0)
    play.ask(ask(g=1))
    play.resume(0)
    later = play.ask(ask(g=1))
    assert set(waiting(play.book)) == {patient, later}
    play.end(0)
    assert [grant.id for grant in play.book.grants] == [patient]


def test_whoever_is_sent_back_stands_behind_the_older_ones_that_were_sent_back_too() -> None:
    machine = cells(g=[1])
    play = Play(machine, [MemoryLedger(machine, max_overtakes=2)])
    overtakes = laws.Overtakes(2)
    play.watchers += [overtakes.watch, lambda step: overtakes.check(step.after)]
    play.use(0, 1)
    for number in range(10):
        play.ask(ask(g=1), priority=int(number == 7))
    play.use(0, 0)
    for _ in range(3):
        play.refuse(0)
    play.resume(0)
    for _ in range(5):
        play.refuse(0)
    play.drain([])


def test_later_arrivals_use_what_a_reservation_leaves() -> None:
    machine = cells(gpu=[4, 2])
    play = Play(machine, [MemoryLedger(machine, max_overtakes=0)])
    play.ask(ask(gpu=2))
    play.ask(ask(gpu=2))
    big = play.ask(ask(gpu=4))
    small = play.ask(ask(gpu=2))
    assert set(waiting(play.book)) == {big, small}
    play.end(0)
    held = {grant.id: grant.holdings[0].cell for grant in play.book.grants}
    assert held[small] == CellId("gpu", 1)

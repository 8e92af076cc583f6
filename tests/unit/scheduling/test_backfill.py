"""Short work in the gap before long work: who may have what is set aside, and who may not."""

from __future__ import annotations

import pytest
from tests.support.interleavings import ask, cells
from tests.support.laws import Overtakes, work_conserving
from tests.support.truncating_ledger import TruncatingLedger

from prefect_slots.model.book import Granted, Reserved
from prefect_slots.model.requirement import Demand, Requirement
from prefect_slots.testing.bookkeeping import MemoryLedger
from prefect_slots.testing.play import Play, Step, waiting


def _play(**capacities: list[int]) -> Play:
    """Return a machine that lets nobody be overtaken: whoever does not fit reserves at once."""
    machine = cells(**capacities)
    play = Play(machine, [MemoryLedger(machine, max_overtakes=0), TruncatingLedger(machine, max_overtakes=0, front=1)])
    overtakes = Overtakes(0)
    play.watchers += [overtakes.watch, lambda step: overtakes.check(step.after), lambda step: work_conserving(step, 0)]
    return play


def _held(play: Play) -> set[str]:
    return {grant.id for grant in play.book.grants}


def _end(play: Play, ticket: str) -> None:
    play.end([grant.id for grant in play.book.grants if not grant.closed].index(ticket))


@pytest.fixture
def busy() -> Play:
    """Three of four units are held for 10 s from time 1 on, by the holder's word; all four are set aside."""
    play = _play(g=[4])
    play.ask(ask(g=3), expected=10)
    play.ask(ask(g=4))
    return play


def test_who_ends_before_the_reserver_can_start_runs_in_the_gap(busy: Play) -> None:
    short = busy.ask(ask(g=1), expected=8)
    assert short in _held(busy)


@pytest.mark.parametrize("expected", [8.5, None])
def test_who_may_end_later_waits_behind_it(busy: Play, expected: float | None) -> None:
    later = busy.ask(ask(g=1), expected=expected)
    assert later in waiting(busy.book)


def test_the_start_does_not_move_however_many_run_in_the_gap(busy: Play) -> None:
    (patient,) = waiting(busy.book)
    for _ in range(4):
        short = busy.ask(ask(g=1), expected=1)
        assert short in _held(busy)
        _end(busy, short)
    assert busy.ask(ask(g=1), expected=1) in waiting(busy.book)
    _end(busy, next(grant.id for grant in busy.book.grants))
    assert patient in _held(busy)


def test_a_holder_that_gave_no_word_or_is_late_makes_no_gap(busy: Play) -> None:
    busy.pass_time(20)
    assert busy.ask(ask(g=1), expected=1) in waiting(busy.book)
    silent = _play(g=[4])
    silent.ask(ask(g=3))
    silent.ask(ask(g=4))
    assert silent.ask(ask(g=1), expected=1) in waiting(silent.book)


def test_a_gap_lasts_as_long_as_any_one_holder_that_is_needed_gone() -> None:
    play = _play(g=[5])
    play.ask(ask(g=2))
    play.ask(ask(g=1), expected=20)
    play.ask(ask(g=4))
    assert play.ask(ask(g=1), expected=30) in waiting(play.book)
    # Whenever the silent one ends, one unit more is needed, and not to be had for twenty seconds.
    assert play.ask(ask(g=2), expected=15) in waiting(play.book)
    assert play.ask(ask(g=1), expected=15) in waiting(play.book)


@pytest.mark.parametrize(("wanted", "start"), [(4, 50), (3, 20)])
def test_of_several_holders_as_many_as_are_in_the_way_are_waited_for(wanted: int, start: int) -> None:
    play = _play(g=[4])
    play.ask(ask(g=1), expected=20)
    play.ask(ask(g=1), expected=50)
    blocker = play.ask(ask(g=1), expected=5)
    play.ask(ask(g=wanted))
    _end(play, blocker)
    assert play.ask(ask(g=2), expected=1) in _held(play)
    _end(play, next(reversed([grant.id for grant in play.book.grants])))
    assert play.ask(ask(g=1), expected=start) in waiting(play.book)
    assert play.ask(ask(g=1), expected=start - 10) in _held(play)


def test_a_holder_that_need_not_go_makes_no_gap() -> None:
    play = _play(g=[4])
    play.ask(ask(g=1), expected=50)
    play.ask(ask(g=2))
    play.ask(ask(g=3))
    assert play.ask(ask(g=1), expected=5) in waiting(play.book)


def test_a_gap_on_one_resource_serves_a_request_for_another() -> None:
    play = _play(card=[1], seat=[2])
    play.ask(ask(card=1), expected=60)
    play.ask(ask(card=1, seat=2))
    assert play.ask(ask(seat=2), expected=30) in _held(play)
    assert play.ask(ask(seat=1), expected=90) in waiting(play.book)


def test_who_is_left_nothing_to_reserve_may_still_run_in_the_gap(busy: Play) -> None:
    shorts = [busy.ask(ask(g=1), expected=40), busy.ask(ask(g=1), expected=4)]
    assert [ticket in _held(busy) for ticket in shorts] == [False, True]


def test_a_reserver_runs_in_the_gap_of_one_ahead_of_it() -> None:
    play = _play(g=[4])
    first = play.ask(ask(g=3), expected=100)
    blocker = play.ask(ask(g=1), expected=100)
    play.ask(ask(g=4))
    short = play.ask(ask(g=1), expected=10)
    assert short in waiting(play.book)
    _end(play, blocker)
    assert _held(play) == {first, short}


def test_who_waits_for_a_reserver_ahead_cannot_start_before_it() -> None:
    play = _play(g=[4], s=[2])
    play.ask(ask(g=3), expected=100)
    play.ask(ask(g=4))
    behind = play.ask(ask(g=1, s=1))
    assert play.ask(ask(g=1), expected=50) in _held(play)
    assert behind in waiting(play.book)


def test_several_reservers_must_all_be_kept_waiting_by_others() -> None:
    play = _play(a=[2], b=[2])
    play.ask(ask(a=1), expected=100)
    play.ask(ask(b=1), expected=10)
    play.ask(ask(a=2))
    play.ask(ask(b=2))
    assert play.ask(ask(a=1, b=1), expected=50) in waiting(play.book)
    assert play.ask(ask(a=1, b=1), expected=5) in _held(play)


def test_what_is_drawn_from_a_grant_has_gaps_too() -> None:
    play = _play(g=[4], s=[4])
    outer = play.ask(ask(g=4, s=4))
    inner: list[str | None] = []

    def within(requirement: Requirement, expected: float | None = None) -> str:
        inner.append(play.ask_inside_any(0, [requirement], expected=expected))
        assert inner[-1] is not None
        return inner[-1]

    within(ask(g=3), expected=50)
    assert within(ask(g=4)) in waiting(play.book)
    assert within(ask(g=1), expected=60) in waiting(play.book)
    assert within(ask(g=1), expected=20) in _held(play)
    assert outer in _held(play)


def test_a_cell_of_which_somebody_may_need_some_at_any_moment_has_no_gap() -> None:
    play = _play(a=[1], b=[1], c=[2])
    play.ask(ask(a=1))
    play.ask(ask(b=1), expected=100)
    play.ask(ask(a=1, c=1))
    play.ask(ask(b=1, c=1))
    # It has nothing of the cell until one of those has gone, and is before whoever comes now.
    play.ask(ask(c=1))
    assert play.ask(ask(c=1), expected=10) in waiting(play.book)


def test_who_is_passed_is_on_record_first_with_the_cells_that_it_waits_for() -> None:
    play = _play(card=[1], cpus=[2], seat=[2, 3, 1])
    play.ask(ask(cpus=1), expected=60)
    for cell, capacity in ((0, 1), (2, 2), (3, 3), (4, 1)):
        play.use(cell, foreign=capacity)
    play.ask(ask(card=1, cpus=2))
    few = Requirement.of([Demand(resource="cpus", amount=1), Demand(resource="seat", amount=1, cells=2)])
    many = Requirement.of([Demand(resource="seat", amount=2, cells=2)])
    ahead, patient, short = play.ask(few), play.ask(many), play.ask(many, expected=1)
    steps: list[Step] = []
    play.watchers.insert(0, steps.append)
    # Until now nothing could be set aside: who is ahead takes a seat of the first cell, and `patient` waits for it.
    play.restore()
    assert short in _held(play)
    (step,) = steps
    granted = next(at for at, change in enumerate(step.changes) if isinstance(change, Granted))
    first = {change.ticket: change.cells for change in step.changes[:granted] if isinstance(change, Reserved)}
    assert {cell.number for cell, _ in first[ahead] if cell.resource == "seat"} == {0, 2}
    assert {cell.number for cell, _ in first[patient]} == {0, 1}

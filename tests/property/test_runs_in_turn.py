"""Law 5, for runs: they are served in turn, so that the map of one does not shut out the single task of another.

Where all ask for the same, places are the order of service and can be counted.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.property.effort import effort
from tests.support.interleavings import RELEASE, Process, Search, ask, cells

from prefect_slots.model.book import Granted
from prefect_slots.testing.bookkeeping import MemoryLedger
from prefect_slots.testing.play import Play, waiting

MAP = 500


def _play(allowed: int, **capacities: list[int]) -> tuple[Play, list[str]]:
    machine = cells(**capacities)
    play = Play(machine, [MemoryLedger(machine, max_overtakes=allowed)])
    granted: list[str] = []
    play.watchers.append(
        lambda step: granted.extend(change.grant.id for change in step.changes if isinstance(change, Granted))
    )
    return play, granted


@pytest.mark.parametrize("allowed", [0, 20])
def test_single_tasks_wait_for_two_of_a_map_each(allowed: int) -> None:
    play, granted = _play(allowed, g=[1])
    for _ in range(MAP // 10):
        play.ask(ask(g=1), run="map")
    for number in range(30):
        single = play.ask(ask(g=1), run=f"single {number}")
        before = len(granted)
        while single not in granted:
            play.end(0)
        assert len(granted) - before <= 3


@pytest.mark.parametrize("allowed", [0, 20])
def test_a_map_of_many_sizes_does_not_shut_out_single_tasks(allowed: int) -> None:
    # Each size is a line of its own, and all of them together have been overtaken by every one of the single tasks.
    play, granted = _play(allowed, g=[100])
    for number in range(40):
        play.ask(ask(g=60 + number), run="map")
    for number in range(35):
        single = play.ask(ask(g=59), run=f"single {number}")
        before = len(granted)
        while single not in granted:
            play.end(0)
        # One of them may have cells set aside already.
        assert len(granted) - before <= 4


def test_two_maps_are_served_by_turns() -> None:
    play, granted = _play(20, g=[1])
    first = {play.ask(ask(g=1), run="first") for _ in range(50)}
    second = {play.ask(ask(g=1), run="second") for _ in range(20)}
    while second - set(granted):
        play.end(0)
    served = ["second" if ticket in second else "first" for ticket in granted]
    assert first.isdisjoint(second)
    assert abs(served.count("first") - served.count("second")) <= 3


def test_what_waits_for_something_else_is_nobodys_turn() -> None:
    play, granted = _play(20, g=[1], s=[1])
    for _ in range(20):
        play.ask(ask(g=1), run="a")
        play.ask(ask(s=1), run="b")
    seat = play.ask(ask(s=1), run="a")
    holder = next(number for number, grant in enumerate(play.book.grants) if grant.holdings[0].cell.resource == "s")
    before = len(granted)
    while seat not in granted:
        play.end(holder)
        holder = next(number for number, grant in enumerate(play.book.grants) if grant.holdings[0].cell.resource == "s")
    assert len(granted) - before <= 3


@effort(200)
@given(
    capacity=st.integers(1, 3),
    allowed=st.integers(0, 3),
    moves=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 63)), max_size=60),
)
def test_nobody_has_more_of_another_run_ahead_than_of_its_own_and_two(
    capacity: int, allowed: int, moves: list[tuple[int, int]]
) -> None:
    play, granted = _play(allowed, g=[capacity])
    runs: dict[str, str] = {}
    # For each ticket: how many of its own run it found waiting, and how many had been granted when it came.
    found: dict[str, tuple[int, int]] = {}
    for what, number in moves:
        if what < 4:
            run = "abcd"[what]
            own = sum(runs[ticket] == run for ticket in waiting(play.book))
            before = len(granted)
            ticket = play.ask(ask(g=1), run=run)
            runs[ticket] = run
            found[ticket] = (own, before)
        else:
            play.end(number)
    play.drain([])
    for ticket, (own, before) in found.items():
        between = granted[before : granted.index(ticket)]
        for run in "abcd":
            if run != runs[ticket]:
                others = sum(runs[other] == run for other in between)
                assert others <= own + 2, f"{ticket}, with {own} of its own ahead, let {others} of {run} go first"


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_no_interleaving_of_processes_of_one_run_starves_anybody(allowed: int) -> None:
    small, big = (ask(g=1), RELEASE), (ask(g=2), RELEASE)
    processes = [Process(small, run="a"), Process(small, run="a"), Process(big, run="a"), Process(big, run="b")]
    outcome = Search(cells(g=[2]), processes, max_overtakes=allowed).run()
    assert not outcome.problem, str(outcome)

"""Whose use of a card is whose: laws over every list of processes, and the peak that is held."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_slots.detect.gpu.usage import DeviceUse, ForeignUse, Peak, foreign_use, hold
from prefect_slots.system.container import Surroundings

MIB = 2**20
HERE = Surroundings()
CONTAINER = Surroundings(own_pids=True)
PIDS = st.integers(1, 9)
SETS = st.sets(PIDS)
BYTES = st.integers(0, 40 * MIB)
TOLD = st.dictionaries(PIDS, BYTES, max_size=6)


def card(used: int | None, processes: Mapping[int, int | None] | None, why: str = "") -> DeviceUse:
    return DeviceUse(uuid="GPU-a", used=used, processes=processes, why=why)


def test_what_is_used_beyond_ours_is_others():
    use = card(10 * MIB, {1: 4 * MIB, 2: 5 * MIB})
    assert foreign_use(use, own={1}, around=HERE) == ForeignUse(mib=6)
    assert foreign_use(use, own={1}, ignored={2}, around=HERE) == ForeignUse(mib=1)
    assert foreign_use(use, own={1, 2, 3}, around=HERE) == ForeignUse(mib=1)


def test_a_part_of_a_mib_is_a_whole_one():
    assert foreign_use(card(1, {}), own=(), around=HERE).mib == 1


@settings(deadline=None)
@given(processes=TOLD, rest=BYTES, own=SETS, ignored=SETS)
def test_ours_ignored_and_foreign_together_are_what_is_used(
    processes: dict[int, int], rest: int, own: set[int], ignored: set[int]
):
    used = sum(processes.values()) + rest
    foreign = foreign_use(card(used, processes), own=own, ignored=ignored, around=HERE).mib
    assert foreign is not None
    not_foreign = sum(amount for pid, amount in processes.items() if pid in own | ignored)
    assert 0 <= foreign * MIB - (used - not_foreign) < MIB


@settings(deadline=None)
@given(processes=TOLD, used=BYTES, own=SETS, more=SETS)
def test_more_that_is_ours_never_makes_more_that_is_foreign(
    processes: dict[int, int], used: int, own: set[int], more: set[int]
):
    fewer = foreign_use(card(used, processes), own=own, around=HERE).mib
    after = foreign_use(card(used, processes), own=own | more, around=HERE).mib
    assert fewer is not None
    assert after is not None
    assert after <= fewer


@settings(deadline=None)
@given(processes=TOLD, own=SETS, ignored=SETS)
def test_a_card_without_memory_of_its_own_counts_what_the_others_say(
    processes: dict[int, int], own: set[int], ignored: set[int]
):
    theirs = sum(amount for pid, amount in processes.items() if pid not in own | ignored)
    foreign = foreign_use(card(None, processes), own=own, ignored=ignored, around=HERE).mib
    assert foreign is not None
    assert 0 <= foreign * MIB - theirs < MIB


@settings(deadline=None)
@given(used=st.none() | BYTES, processes=st.none() | TOLD, own=SETS, around=st.sampled_from([HERE, CONTAINER]))
def test_unknown_is_never_zero(used: int | None, processes: dict[int, int] | None, own: set[int], around: Surroundings):
    foreign = foreign_use(card(used, processes, "why"), own=own, around=around)
    trusted = processes is not None and around is HERE
    if not trusted and (own or used is None):
        assert foreign.mib is None
        assert foreign.why != ""
    elif not trusted:
        assert used is not None
        assert foreign.mib == -(-used // MIB)


@settings(deadline=None)
@given(ours=TOLD, theirs=TOLD, spare=st.integers(0, 4), around=st.sampled_from([HERE, CONTAINER]))
def test_c02_however_little_is_known_others_use_lies_within_what_is_told(
    ours: dict[int, int], theirs: dict[int, int], spare: int, around: Surroundings
):
    """Holders elsewhere use no more than they were granted; their processes' numbers are others here."""
    theirs = {pid + 100: amount for pid, amount in theirs.items()}
    used, strangers = sum(ours.values()) + sum(theirs.values()), sum(theirs.values())
    granted = -(-sum(ours.values()) // MIB) + spare
    told = card(used, {**ours, **theirs})
    foreign = foreign_use(told, own=(), around=around, granted=granted, elsewhere=granted)
    least, most = foreign.within or (foreign.mib, foreign.mib)
    assert least is not None
    assert most is not None
    assert least * MIB <= strangers + MIB
    assert strangers <= most * MIB
    assert most <= -(-used // MIB)
    assert least >= -(-used // MIB) - granted


def test_process_ids_that_mislead_are_not_used_even_where_they_match():
    foreign = foreign_use(card(8 * MIB, {1: 8 * MIB}), own={1}, around=CONTAINER)
    assert (foreign.mib, "process ids" in foreign.why) == (None, True)


def test_a_card_that_holds_nothing_of_ours_is_used_by_others_whoever_they_are():
    assert foreign_use(card(8 * MIB, None), own=(), around=CONTAINER) == ForeignUse(mib=8)


def test_an_untold_memory_matters_only_where_it_is_ours_or_all_there_is():
    theirs, ours = {1: None, 2: 3 * MIB}, {1: 3 * MIB, 2: None}
    assert foreign_use(card(8 * MIB, theirs), own={2}, around=HERE).mib == 5
    assert foreign_use(card(8 * MIB, ours), own={2}, around=HERE).mib is None
    assert foreign_use(card(None, theirs), own={2}, around=HERE).mib is None
    assert foreign_use(card(None, ours), own={2}, around=HERE).mib == 3


def test_a_memory_that_cannot_be_read_is_unknown_though_processes_are_told():
    foreign = foreign_use(card(None, {1: MIB}, "its memory cannot be read: GPU is lost"), own=(), around=HERE)
    assert foreign == ForeignUse(mib=None, why="its memory cannot be read: GPU is lost")


def held(*steps: tuple[float, int | None], seconds: float = 10) -> int | None:
    peak = Peak()
    for now, mib in steps:
        peak = hold(peak, mib, now, seconds=seconds)
    return peak.mib


@pytest.mark.parametrize(
    ("steps", "mib"),
    [
        ([], None),
        ([(0, None)], None),
        ([(0, 5)], 5),
        ([(0, 5), (1, 2)], 5),
        ([(0, 5), (9, 2), (10, 1)], 2),
        ([(0, 5), (9, 8), (10, 1)], 8),
        ([(0, 5), (100, None)], 5),
        ([(0, 5), (100, None), (101, 0)], 0),
    ],
)
def test_the_peak_of_the_last_seconds_is_held_and_the_unknown_changes_nothing(
    steps: list[tuple[float, int | None]], mib: int | None
):
    assert held(*steps) == mib


@settings(deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 8), st.none() | st.integers(0, 5)), max_size=12),
    seconds=st.integers(1, 20),
)
def test_what_is_held_is_the_most_that_was_seen_within_the_time_before_the_latest_look(
    steps: list[tuple[int, int | None]], seconds: int
):
    peak, now, seen = Peak(), 0, list[tuple[int, int]]()
    for passed, mib in steps:
        now += passed
        peak = hold(peak, mib, now, seconds=seconds)
        seen += [] if mib is None else [(now, mib)]
    expected = max((mib for time, mib in seen if time > seen[-1][0] - seconds), default=None)
    assert peak.mib == expected
    assert len(peak.seen) <= 6


def test_a_clock_that_goes_back_ages_nothing():
    assert held((50, 5), (1, 2), (55, 1)) == 5

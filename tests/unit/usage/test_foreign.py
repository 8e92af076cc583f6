"""What two witnesses of others' use mean together: never more is free than there is, nothing counts twice for long."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from prefect_slots.ledger.usage import Samples
from prefect_slots.usage.foreign import beyond, remembered, settled

COUNTS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), max_size=12)


def looked(steps: list[tuple[int, int]], seconds: float) -> tuple[Samples, float]:
    samples: Samples = ()
    now = 0.0
    for passed, amount in steps:
        now += passed
        samples = remembered(samples, now, amount, seconds)
    return samples, now


@given(steps=COUNTS, seconds=st.integers(0, 20))
def test_settled_is_what_was_counted_all_the_time_since_and_nothing_before_that_is_known(
    steps: list[tuple[int, int]], seconds: int
):
    samples, now = looked(steps, seconds)
    at, all_of_it = 0, list[tuple[int, int]]()
    for passed, amount in steps:
        at += passed
        all_of_it.append((at, amount))
    since = now - seconds
    old = [amount for time, amount in all_of_it if time <= since]
    expected = min([old[-1], *(amount for time, amount in all_of_it if time > since)]) if old else 0
    assert settled(samples, since) == expected
    assert len([time for time, _ in samples if time <= since]) <= 1
    amounts = [amount for _, amount in samples]
    assert all(before != after for before, after in pairwise(amounts))


@given(
    outsiders=st.integers(0, 5),
    shown=st.lists(st.integers(0, 3), max_size=4),
    taken=st.lists(st.integers(0, 3), max_size=4),
    steady=st.integers(0, 5),
)
def test_no_more_is_free_than_is_left_and_no_more_counts_twice_than_was_taken_a_moment_ago(
    outsiders: int, shown: list[int], taken: list[int], steady: int
):
    """Other machines hold `steady` seats since long, and have taken some a moment ago that are shown or not."""
    counted = steady + sum(taken)
    at_the_licence_server = outsiders + steady + min(sum(shown), sum(taken))
    blocked = counted + beyond(at_the_licence_server, steady)
    assert blocked >= outsiders + counted
    assert blocked <= outsiders + counted + sum(taken)


def test_what_was_just_taken_explains_nothing_and_what_was_just_given_back_explains_nothing_any_more():
    samples, now = looked([(60, 2), (60, 2), (10, 3)], 60)
    assert settled(samples, now - 60) == 2
    samples, now = looked([(60, 3), (60, 3), (10, 1)], 60)
    assert settled(samples, now - 60) == 1

"""What benchmarks make of many measured times."""

from __future__ import annotations

import pytest
from benchmarks.crew import Turn
from benchmarks.makespan import bound
from benchmarks.numbers import p95, summary
from benchmarks.relay import gaps


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7),
        ([float(n) for n in range(1, 20)], 19),
        ([float(n) for n in range(1, 21)], 19),
        ([float(n) for n in range(1, 22)], 20),
        ([float(n) for n in range(100, 0, -1)], 95),
    ],
)
def test_p95_is_a_measured_value_that_95_percent_do_not_exceed(values: list[float], expected: float) -> None:
    assert p95(values) == expected
    assert sum(value <= p95(values) for value in values) >= 0.95 * len(values)


def test_p95_of_nothing_is_no_number() -> None:
    with pytest.raises(ValueError, match="nothing"):
        p95([])


def test_times_are_told_in_milliseconds() -> None:
    told = {each.metric: (each.value, each.unit) for each in summary("case", "ours", [0.001, 0.004, 0.002, 0.003])}
    assert told == {"median": (2.5, "ms"), "p95": (4.0, "ms"), "max": (4.0, "ms")}


def test_a_gap_is_from_the_end_of_a_body_to_the_next_start_in_the_order_of_starts() -> None:
    turns = [
        Turn(asked=0, started=13, ended=14, left=15, done=15),
        Turn(asked=0, started=1, ended=3, left=4, done=4),
        Turn(asked=0, started=3.5, ended=12, left=13, done=13),
    ]
    assert gaps(turns) == [0.5, 1]
    assert gaps(turns[:1]) == []


def test_no_schedule_of_the_items_beats_the_bound_and_one_reaches_it() -> None:
    assert bound() == 10.75

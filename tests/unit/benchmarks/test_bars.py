"""Bars and tables of benchmarks: what is compared with what, and how it is shown."""

from __future__ import annotations

import io

from benchmarks import handoff
from benchmarks.case import NAMES, Bar, Measured, find
from benchmarks.table import as_bars, as_table, shown
from rich.console import Console


def number(case: str, peer: str, metric: str, value: float, unit: str = "ms") -> Measured:
    return Measured(case=case, peer=peer, metric=metric, value=value, unit=unit)


def test_a_bar_is_met_at_its_limit() -> None:
    assert Bar(text="", value=3, unit="ms", at_most=3).met
    assert not Bar(text="", value=3.1, unit="ms", at_most=3).met
    assert Bar(text="", value=200, unit="ratio", at_least=200).met
    assert not Bar(text="", value=199, unit="ratio", at_least=200).met


def test_hand_off_is_held_to_the_semaphore_the_round_trip_and_stock() -> None:
    case = "2 s holders, 1 waiting"
    measured = [
        number(f"{case}, handed over", "ours", "median", 2),
        number(f"{case}, handed over", "ours", "p95", 2.5),
        number(f"{case}, not handed over", "ours", "median", 40),
        number(case, "prefect", "median", 1000),
        number(case, "bound", "median", 0.25),
        number(handoff.ROUND_TRIP, "raw", "median", 20),
    ]
    assert [(bar.value, bar.met) for bar in handoff.bars(measured)] == [
        (2, False),
        (2.5, True),
        (8, True),
        (2, True),
        (500, True),
        (25, True),
    ]


def test_what_was_not_measured_has_no_bar() -> None:
    assert [name for name in NAMES if find(name).bars([])] == []


def test_a_table_has_a_row_for_each_case_and_peer() -> None:
    measured = [
        number("one", "ours", "median", 0.1234),
        number("one", "ours", "p95", 1234.5),
        number("one", "prefect", "median", 99.96),
        number("one", "ours", "ratio", 0.25, "ratio"),
    ]
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(as_table("name", measured))
    console.print(as_bars([Bar(text="some bar", value=2, unit="ratio", at_least=20)]))
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in console.export_text().splitlines()]
    assert ["one", "ours", "0.123 ms", "1,234 ms", "0.25"] in cells
    assert ["one", "prefect", "100 ms", "", ""] in cells
    assert ["some bar", "2", "≥ 20", "no"] in cells


def test_numbers_are_shown_to_three_digits() -> None:
    assert [shown(value, "ratio") for value in (0.0123456, 1.2345, 12.345, 123.45, 12345.6)] == [
        *("0.0123", "1.23", "12.3", "123", "12,346"),
    ]

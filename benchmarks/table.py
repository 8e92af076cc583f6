"""How measurements look on a terminal: one table of numbers, one of bars."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.table import Table

from benchmarks.case import Bar, Measured


def as_table(name: str, measured: Sequence[Measured]) -> Table:
    """Show numbers, a row for each case and peer, in the order they were measured."""
    metrics = list(dict.fromkeys(each.metric for each in measured))
    table = Table(title=f"{name} (Python {sys.version.split()[0]})", title_justify="left")
    table.add_column("case")
    table.add_column("peer")
    for metric in metrics:
        table.add_column(metric, justify="right", no_wrap=True)
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for each in measured:
        rows.setdefault((each.case, each.peer), {})[each.metric] = shown(each.value, each.unit)
    for (case, peer), values in rows.items():
        table.add_row(case, peer, *(values.get(metric, "") for metric in metrics))
    return table


def as_bars(bars: Sequence[Bar]) -> Table:
    """Show what was asked of the numbers, and whether they are that good."""
    table = Table(title="bars", title_justify="left")
    for column in ("bar", "measured", "asked", "met"):
        table.add_column(column, justify="right" if column in ("measured", "asked") else "left")
    for bar in bars:
        asked = f"≤ {shown(bar.at_most, bar.unit)}" if bar.at_most is not None else f"≥ {shown(bar.at_least, bar.unit)}"
        table.add_row(bar.text, shown(bar.value, bar.unit), asked, "[green]yes" if bar.met else "[red]no")
    return table


def shown(value: float | None, unit: str) -> str:
    """Return a number to three significant digits or as a whole one, with its unit."""
    if value is None:
        return ""
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return digits if unit == "ratio" else f"{digits} {unit}"

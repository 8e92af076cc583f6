"""`python -m benchmarks NAME [--quick] [--json FILE]`: a table on the terminal, and plain data in a file."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.case import NAMES, Measured, find


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a look, not for a claim")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    options = parser.parse_args()
    measured = find(options.name)(options.quick)
    Console().print(as_table(options.name, measured))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in measured], indent=2) + "\n")


def as_table(name: str, measured: list[Measured]) -> Table:
    """Show numbers for people."""
    table = Table(title=f"{name} (Python {sys.version.split()[0]})", title_justify="left")
    for column in ("case", "who", "what", "value", "unit"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for each in measured:
        table.add_row(
            each.case, each.peer, each.metric, f"{each.value:.{2 if each.unit == 'ratio' else 0}f}", each.unit
        )
    return table


if __name__ == "__main__":
    main()

"""`python -m benchmarks NAME [--quick] [--json FILE]`: a table on the terminal, and plain data in a file."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.case import NAMES, find
from benchmarks.table import as_bars, as_table


class Shown:
    """A run whose progress is shown: a moving line on a terminal, a line for each step elsewhere."""

    def __init__(self, *, quick: bool, progress: Progress) -> None:
        self.quick = quick
        self._progress = progress
        self._task = progress.add_task("", total=None)
        self._begun = False

    def expect(self, steps: int) -> None:
        """Say how many steps there will be."""
        self._progress.update(self._task, total=steps)

    def step(self, text: str) -> None:
        """Say what begins now."""
        self._progress.update(self._task, description=text, advance=1 if self._begun else 0)
        self._begun = True
        if not self._progress.console.is_terminal:
            self._progress.console.print(text)


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a look, not for a claim")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    options = parser.parse_args()
    # Else a server would outlive the benchmark that a time limit ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="prefect-slots-bench-") as home:
        _leave_the_user_out(home)
        benchmark = find(options.name)
        columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            measured = benchmark.measure(Shown(quick=options.quick, progress=progress))
    console = Console()
    console.print(as_table(options.name, measured))
    if bars := benchmark.bars(measured):
        console.print(as_bars(bars))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in measured], indent=2) + "\n")


def _leave_the_user_out(home: str) -> None:
    """Keep the user's profile, servers and settings out; Prefect reads them when it is imported."""
    # Else our modules, which pip has not compiled, would be compiled again in every process.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in [name for name in os.environ if name.startswith(("PREFECT", "WORKER_ID"))]:
        del os.environ[name]
    os.environ["PREFECT_HOME"] = home
    os.environ["XDG_CACHE_HOME"] = home
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
    os.environ["DO_NOT_TRACK"] = "1"


if __name__ == "__main__":
    main()

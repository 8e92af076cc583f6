"""A map's progress on the terminal: counts of done, running and waiting calls, and the reasons for waiting."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


class Progress:
    """The state of a map's futures and of its pool at the moment of drawing."""

    def __init__(self, name: str, futures: Sequence[Future[Any]], reasons: Callable[[], list[str]]) -> None:
        self._name = name
        self._futures = futures
        self._reasons = reasons

    def __rich__(self) -> RenderableType:
        """Return the drawing."""
        running = sum(future.running() for future in self._futures)
        ended = [future for future in self._futures if future.done()]
        failed = sum(future.cancelled() or future.exception() is not None for future in ended)
        done = len(ended)
        waiting = len(self._futures) - done - running
        row = Table.grid(padding=(0, 1))
        counts = f"{done} done, {running} running, {waiting} waiting" + (f", {failed} failed" if failed else "")
        row.add_row(Text(self._name), ProgressBar(len(self._futures), done, width=30), Text(counts))
        # Each queue asks the ledger: not while nothing waits.
        reasons = sorted(set(self._reasons())) if waiting else []
        return Group(row, *(Text(f"  {reason}", style="dim") for reason in reasons))


def shown(
    results: Iterator[Any],
    futures: Sequence[Future[Any]],
    name: str,
    reasons: Callable[[], list[str]],
    console: Console | None = None,
) -> Iterator[Any]:
    """Yield the results, with their progress on standard error meanwhile."""
    progress = Progress(name, futures, reasons)
    # Each drawing looks at every future and asks the ledger for reasons: no more than four a second.
    with Live(progress, console=console or Console(stderr=True), refresh_per_second=4):
        yield from results

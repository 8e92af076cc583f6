"""What one process of the chaos writes down itself about what it holds: the witness against the ledger and the server.

A line is `[what, when, ...]`. What is held is written after it was granted and before it is given back, on a clock all
processes share, so that a written interval lies inside the real one and no overlap of intervals is a false accusation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.stress import clock

HELD = "+"  # id, [[place, amount], ...], seconds waited
GIVEN_BACK = "-"  # id
ALL_GIVEN_BACK = "0"  # whatever this process holds is about to be given back, or was
DIED = "x"  # at a fault point, whose name follows
TIMED_OUT = "timed out"
OUT_OF_ORDER = "out of order"
FAILED = "failed"  # the error's type and text
FLEET = "fleet"
ENDS = "ends.jsonl"


class Witness:
    """One process's record.

    Args:
        path: Its own file; made if it is new.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._last = 0

    def write(self, what: str, *more: Any) -> None:
        """Write one line, whole or not at all."""
        os.write(self._file, (json.dumps([what, clock(), *more]) + "\n").encode())

    @contextmanager
    def holding(self, held: Iterable[tuple[str, int]], waited: float = 0.0) -> Generator[None]:
        """Write that `held` is held, and, however its block ends, that it is about to be given back."""
        self._last += 1
        number = self._last
        self.write(HELD, number, list(held), waited)
        try:
            yield
        finally:
            self.write(GIVEN_BACK, number)


class Log:
    """What the breaker did when, for whoever looks for the cause of what happened then."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, text: str) -> None:
        """Add one line."""
        with self._path.open("a") as file:
            file.write(f"{clock():.3f} {text}\n")


def note_end(folder: Path, record: str) -> None:
    """Write that a process is about to be killed; call it before the signal is sent.

    What it held is free only after this moment, so counting it as free from here on accuses nobody falsely.
    """
    file = os.open(folder / ENDS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(file, (json.dumps([record, clock()]) + "\n").encode())
    finally:
        os.close(file)

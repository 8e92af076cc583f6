"""Judging the records: more held at one moment than there is, how much was granted, and how it ended.

Knows nothing of ledger and server; only what the holders wrote down themselves.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from tests.chaos.witness import (
    ALL_GIVEN_BACK,
    DIED,
    ENDS,
    FAILED,
    GIVEN_BACK,
    HELD,
    OUT_OF_ORDER,
    TIMED_OUT,
)


@dataclass(frozen=True)
class Interval:
    """So much of a place, held from `start` until `end`; who holds it is for people."""

    place: str
    amount: int
    start: float
    end: float
    who: str = ""


def overlaps(intervals: Iterable[Interval], capacity: Mapping[str, int], until: float = inf) -> list[str]:
    """Return every moment up to `until` at which more is held of a place than there is.

    Intervals that only touch do not overlap.
    """
    events: list[tuple[float, int, Interval]] = []
    for interval in intervals:
        if interval.end > interval.start:
            events += [(interval.start, interval.amount, interval), (interval.end, -interval.amount, interval)]
    events.sort(key=lambda event: event[:2])
    here: dict[str, list[Interval]] = {}
    used: Counter[str] = Counter()
    found: list[str] = []
    for at, change, interval in events:
        if at > until:
            break
        used[interval.place] += change
        holders = here.setdefault(interval.place, [])
        (holders.append if change > 0 else holders.remove)(interval)
        if change > 0 and used[interval.place] > capacity[interval.place]:
            who = ", ".join(f"{holder.who} {holder.amount} since {holder.start:.3f}" for holder in holders)
            found.append(f"{interval.place}: {used[interval.place]} of {capacity[interval.place]} at {at:.6f}: {who}")
    return found


@dataclass
class Record:
    """What one process has written so far.

    Attributes:
        died_at: Nothing is held after that moment.
    """

    name: str
    grants: int = 0
    longest_wait: float = 0.0
    died_at: float = inf
    counts: Counter[str] = field(default_factory=Counter[str])
    failures: list[str] = field(default_factory=list[str])
    open: dict[int, list[Interval]] = field(default_factory=dict[int, list[Interval]])
    closed: list[Interval] = field(default_factory=list[Interval])
    _read: int = 0

    def read(self, path: Path) -> None:
        """Take note of the lines that were added; one that is half written is left for the next time."""
        with path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            self._take(*json.loads(line))

    def _take(self, what: str, at: float, *more: Any) -> None:
        if what == HELD:
            number, held, waited = more
            self.open[number] = [Interval(place, amount, at, inf, self.name) for place, amount in held]
            self.grants += 1
            self.longest_wait = max(self.longest_wait, waited)
        elif what == GIVEN_BACK:
            self._close(more[0], at)
        elif what == ALL_GIVEN_BACK:
            for number in tuple(self.open):
                self._close(number, at)
        elif what == DIED:
            self.died_at = min(self.died_at, at)
            self.counts[f"killed: {more[0]}"] += 1
        elif what == FAILED:
            self.counts[f"failed: {more[0]}"] += 1
            self.failures.append(f"{self.name}: {more[0]}: {more[1]}")
        elif what in (TIMED_OUT, OUT_OF_ORDER):
            self.counts[what] += 1

    def _close(self, number: int, at: float) -> None:
        for interval in self.open.pop(number, ()):
            self.closed.append(Interval(interval.place, interval.amount, interval.start, at, interval.who))

    def intervals(self) -> list[Interval]:
        """Return what was held and is held; what a dead process held ends with it."""
        every = [*self.closed, *(interval for held in self.open.values() for interval in held)]
        if self.died_at == inf:
            return every
        return [Interval(i.place, i.amount, i.start, min(i.end, self.died_at), i.who) for i in every]


class Records:
    """All records of a folder, read bit by bit.

    Args:
        folder: Of the records, `*.jsonl`, and of the file that says whom the breaker killed when.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends = 0
        self.each: dict[str, Record] = {}

    def read(self) -> None:
        """Take note of what was added to any of them."""
        for path in sorted(self._folder.glob("*.jsonl")):
            if path.name != ENDS:
                self.each.setdefault(path.name, Record(path.stem)).read(path)
        ends = self._folder / ENDS
        if ends.exists():
            for line in ends.read_text().splitlines():
                name, at = json.loads(line)
                record = self.each.get(name)
                if record is not None:
                    record.died_at = min(record.died_at, at)

    def overlaps(self, capacity: Mapping[str, int], until: float = inf) -> list[str]:
        """Return every moment at which more is held than there is."""
        return overlaps((i for record in self.each.values() for i in record.intervals()), capacity, until)

    def drop_before(self, moment: float) -> None:
        """Forget what was given back before; it has been judged."""
        for name, record in tuple(self.each.items()):
            record.closed = [interval for interval in record.closed if interval.end > moment]
            if record.died_at < moment:
                record.open.clear()
                record.closed = [interval for interval in record.closed if interval.start < record.died_at]
            self.each[name] = record

    @property
    def grants(self) -> int:
        """How much was granted so far."""
        return sum(record.grants for record in self.each.values())

    @property
    def longest_wait(self) -> float:
        """Of all that was granted, in seconds."""
        return max((record.longest_wait for record in self.each.values()), default=0.0)

    @property
    def counts(self) -> Counter[str]:
        """What else happened, by kind."""
        return sum((record.counts for record in self.each.values()), Counter[str]())

    @property
    def failures(self) -> list[str]:
        """Errors that nobody expected."""
        return [failure for record in self.each.values() for failure in record.failures]

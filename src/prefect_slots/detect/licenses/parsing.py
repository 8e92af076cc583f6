"""What all parsers share: numbered lines, lines that were not understood, and the dates that vendors print."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date
from typing import Final

from prefect_slots.detect.licenses.report import Feature, Reading, Usage, combined
from prefect_slots.model.finding import Finding

MAX_LINE: Final = 2000
"""Longest line that is looked at: none of the vendors prints one, and patterns take long over very long ones."""

_SHOWN_LINES: Final = 3
_SHOWN_LETTERS: Final = 60

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NEVER: Final = re.compile(r"permanent|never|none|unlimited|.*\bno expiration\b", re.IGNORECASE)
_DAY_MONTH_YEAR: Final = re.compile(r"(\d{1,2})-([a-z]{3})-(\d{1,4})(?!\d)", re.IGNORECASE)
_YEAR_MONTH_DAY: Final = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?!\d)")
_MONTH_SLASH_DAY: Final = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})(?!\d)")
_CTIME: Final = re.compile(r"[a-z]{3} +([a-z]{3}) +(\d{1,2}) +[\d:]+ +(\d{4})(?!\d)", re.IGNORECASE)


def parse_expiry(text: str) -> date | None:
    """Read a day of expiry in any vendor's spelling; `None` is never. A year 0 means never, too.

    Raises:
        ValueError: for text that is no such day.
    """
    word = text.strip()
    if _NEVER.match(word):
        return None
    if found := _DAY_MONTH_YEAR.match(word):
        year = int(found[3])
        return None if year == 0 else date(_century(year), _month(found[2]), int(found[1]))
    if found := _YEAR_MONTH_DAY.match(word):
        return date(int(found[1]), int(found[2]), int(found[3]))
    if found := _MONTH_SLASH_DAY.match(word):
        return date(_century(int(found[3])), int(found[1]), int(found[2]))
    if found := _CTIME.match(word):
        return date(int(found[3]), _month(found[1]), int(found[2]))
    raise ValueError("not a date")


def _month(name: str) -> int:
    # Not by `strptime`: the names that it knows depend on the locale of whoever calls.
    return _MONTHS.index(name.lower()) + 1


def _century(year: int) -> int:
    return year if year >= 100 else year + (1900 if year >= 70 else 2000)


def shape(line: str) -> str:
    """Return what a line looks like without what it says, because any word of it may be somebody's name."""
    bare = re.sub(r"[^\W\d_]", "x", re.sub(r"\d", "0", line.strip()[: _SHOWN_LETTERS + 1]))
    return bare if len(bare) <= _SHOWN_LETTERS else f"{bare[:_SHOWN_LETTERS]}..."


class Doubts:
    """The lines of an output that were not understood: told together, because garbage has many."""

    def __init__(self) -> None:
        self._lines = 0
        self._shown: list[str] = []

    def add(self, number: int, line: str) -> None:
        """Note a line."""
        self._lines += 1
        if len(self._shown) < _SHOWN_LINES:
            self._shown.append(f"line {number} of the form '{shape(line)}'")

    def __bool__(self) -> bool:
        return self._lines > 0

    def findings(self, server: str) -> tuple[Finding, ...]:
        """Return what a person should know: at most one finding."""
        if not self:
            return ()
        more = f" and {self._lines - len(self._shown)} more" if self._lines > len(self._shown) else ""
        what = "a line of its output was" if self._lines == 1 else f"{self._lines} lines of its output were"
        return (
            Finding(
                subject=server,
                problem=f"{what} not understood: {', '.join(self._shown)}{more}",
                remedy="please report the output, with names replaced; its counts may be incomplete",
            ),
        )


def numbered(text: str, doubts: Doubts) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, each with its number from 1; what is too long for any vendor is a doubt."""
    # Not by `splitlines`: it would break lines at characters that may be part of a name.
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.rstrip()
        if len(line) > MAX_LINE:
            doubts.add(number, line)
        elif line:
            yield number, line


def told(features: Iterable[Feature], doubts: Doubts, server: str, failure: str | None) -> Reading:
    """Return what a server told: features of one name are one, and garbage alone is a failure."""
    distinct = merged(features)
    if not distinct and failure is None and doubts:
        failure = "its output was not understood"
    trouble = Finding(subject=server, problem=failure or "", remedy="see the server's log")
    return Reading(
        features=distinct,
        findings=(*((trouble,) if distinct and failure else ()), *doubts.findings(server)),
        failure=None if distinct else failure,
    )


def day_of(text: str | None, doubts: Doubts, number: int, line: str) -> date | None:
    """Return the day of expiry that a line tells; one that is not understood is a doubt."""
    if not text:
        return None
    try:
        return parse_expiry(text)
    except ValueError:
        doubts.add(number, line)
        return None


def merged(features: Iterable[Feature]) -> tuple[Feature, ...]:
    """Join features of one name, in the order in which each was named first."""
    groups: dict[str, list[Feature]] = {}
    for feature in features:
        groups.setdefault(feature.name, []).append(feature)
    return tuple(group[0] if len(group) == 1 else _joined(group) for group in groups.values())


def _joined(group: list[Feature]) -> Feature:
    usages: list[Usage] = [feature.usage for feature in group]
    held = [feature.checkouts for feature in group if feature.checkouts is not None]
    return replace(
        group[0],
        usage=combined(usages),
        locks=_all_locks([feature.locks for feature in group]),
        checkouts=tuple(checkout for checkouts in held for checkout in checkouts) if held else None,
    )


def _all_locks(told: list[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    known = [locks for locks in told if locks is not None]
    if not known:
        return None
    return tuple(lock for locks in known for lock in locks) if all(known) else ()

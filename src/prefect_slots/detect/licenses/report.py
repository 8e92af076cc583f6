"""Reports of license servers: features that are counted, unlimited or unknown, and the tools of all parsers.

Unknown never becomes zero. User names are personal data: checkouts are kept only where a caller asked for them, and
nothing here shows them in its `repr` or in a finding.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Final, TypeAlias

from prefect_slots.model.finding import Finding


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A feature with a number of seats.

    Attributes:
        total: Seats that the server may hand out.
        used: Seats that nobody else can have now: checked out or reserved; queued requests are not among them.
        reserved: The part of `used` that is set aside for somebody.
        queued: Seats that are waited for.
        expires: The first day on which a license of it ends; `None` where none does or the server does not tell.
    """

    total: int
    used: int
    reserved: int = 0
    queued: int = 0
    expires: date | None = None


@dataclass(frozen=True, kw_only=True)
class Unlimited:
    """A feature that the server hands out without counting."""

    expires: date | None = None


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """A feature of which the server could not tell how many seats it has."""

    reason: str


Usage: TypeAlias = Counted | Unlimited | Unknown


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """Seats that somebody holds.

    Where the vendor prints names with spaces, user, host and display cannot be told apart for certain; `belongs_to` is
    right nevertheless.

    Attributes:
        lingering: Seconds for which the seats stay taken after they are given back: a borrowed license.
    """

    user: str = field(repr=False)
    host: str = field(repr=False)
    display: str = field(default="", repr=False)
    count: int = 1
    lingering: int = 0

    def belongs_to(self, user: str, host: str) -> bool:
        """Return true if `user` on `host` holds it; a host is the same with and without its domain."""
        holder = f"{self.user} {self.host} {self.display}".casefold()
        sought = f"{user} {host.partition('.')[0]}".casefold()
        return holder.startswith(sought) and holder[len(sought) : len(sought) + 1] in ("", " ", ".")

    def is_on(self, hosts: frozenset[str]) -> bool:
        """Return true if a user on one of these hosts, in lower case and without a domain, holds it."""
        _, *words = f"{self.user} {self.host} {self.display}".casefold().split()
        return any(word.partition(".")[0] in hosts for word in words)


@dataclass(frozen=True, kw_only=True)
class Feature:
    """The report of one feature.

    Attributes:
        locks: The locks of its licenses in the vendor's spelling; empty where one of them floats; `None` where
            the server does not tell, as some do only while a license is used.
        checkouts: The holders of seats; `None` unless asked for.
    """

    name: str
    usage: Usage
    locks: tuple[str, ...] | None = None
    checkouts: tuple[Checkout, ...] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The answer to one query of a server.

    Attributes:
        features: In the server's order; names are distinct.
        failure: The error, if the server reported nothing at all; else `None`.
        asked_at: Time of the query on the caller's clock, in seconds; `None` if it was not noted.
    """

    features: tuple[Feature, ...] = ()
    findings: tuple[Finding, ...] = ()
    failure: str | None = None
    asked_at: float | None = field(default=None, compare=False)

    def find(self, name: str) -> Feature | None:
        """Return the feature of that name, in any case of letters where that leaves one."""
        exact = [feature for feature in self.features if feature.name == name]
        alike = [feature for feature in self.features if feature.name.casefold() == name.casefold()]
        if exact:
            return exact[0]
        return alike[0] if len(alike) == 1 else None


def combined(usages: Iterable[Usage]) -> Usage:
    """Join the reports of several daemons, pools or licenses about one feature.

    A number that is missing makes the sum unknown; a counted license limits more than an unlimited one.
    """
    told = tuple(usages)
    unknown = [usage for usage in told if isinstance(usage, Unknown)]
    if unknown or not told:
        return unknown[0] if unknown else Unknown(reason="the server tells nothing of it")
    counted = [usage for usage in told if isinstance(usage, Counted)]
    if not counted:
        return Unlimited(expires=earliest(usage.expires for usage in told if isinstance(usage, Unlimited)))
    return Counted(
        total=sum(usage.total for usage in counted),
        used=sum(usage.used for usage in counted),
        reserved=sum(usage.reserved for usage in counted),
        queued=sum(usage.queued for usage in counted),
        expires=earliest(usage.expires for usage in counted),
    )


def earliest(days: Iterable[date | None]) -> date | None:
    """Return the first of the days that are known."""
    return min((day for day in days if day is not None), default=None)


# Longest line that is matched: no vendor prints longer ones, and patterns take long over very long lines.
MAX_LINE: Final = 2000

# Enough of an unknown output to report it; garbage has thousands of lines.
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
    # Not by `strptime`: the names that it knows depend on the locale of the process.
    return _MONTHS.index(name.lower()) + 1


def _century(year: int) -> int:
    return year if year >= 100 else year + (1900 if year >= 70 else 2000)


def shape(line: str) -> str:
    """Return the shape of a line without its letters, because any word of it may be a person's name."""
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
        """Return at most one finding about all doubtful lines."""
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
    """Yield the lines that are not blank, each with its number from 1; a line too long for any vendor is a doubt."""
    # Not by `splitlines`: it would break lines at characters that may be part of a name.
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.rstrip()
        if len(line) > MAX_LINE:
            doubts.add(number, line)
        elif line:
            yield number, line


def told(features: Iterable[Feature], doubts: Doubts, server: str, failure: str | None) -> Reading:
    """Return the reading of a server: features of one name are one, and garbage alone is a failure."""
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

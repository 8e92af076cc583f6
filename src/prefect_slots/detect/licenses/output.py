"""Output of license servers' tools: lines, blocks and days of expiry, for the parsers of all vendors."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date

from prefect_slots.detect.licenses.report import (
    Checkout,
    Counted,
    Feature,
    Reading,
    Reservation,
    Unknown,
    Unlimited,
    Usage,
    merged,
)
from prefect_slots.model import Finding

# Longest line that is matched: no vendor prints longer ones, and patterns take long over very long lines.
MAX_LINE = 2000

# Enough of an unknown output to report it; garbage has thousands of lines.
_SHOWN_LINES = 3
_SHOWN_LETTERS = 60

# Not by `strptime`: the names that it knows depend on the locale of the process.
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NEVER = re.compile(r"permanent|never|none|unlimited|.*\bno expiration\b", re.IGNORECASE)
# The day may be followed by anything, as by a time, but not by a digit: that would be a number cut in two.
_DAYS = tuple(
    re.compile(rf"{form}(?!\d)", re.IGNORECASE)
    for form in (
        r"(?P<day>\d{1,2})-(?P<month>[a-z]{3})-(?P<year>\d{1,4})",
        r"(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})",
        r"(?P<month>\d{1,2})/(?P<day>\d{1,2})/(?P<year>\d{4}|\d{2})",
        r"[a-z]{3} +(?P<month>[a-z]{3}) +(?P<day>\d{1,2}) +[\d:]+ +(?P<year>\d{4})",
    )
)


def parse_expiry(text: str) -> date | None:
    """Read a day of expiry in any vendor's spelling; `None` is never. A year 0 after a month's name means never, too.

    Raises:
        ValueError: for text that is no such day.
    """
    word = text.strip()
    if _NEVER.match(word):
        return None
    found = next(filter(None, (form.match(word) for form in _DAYS)), None)
    if found is None:
        raise ValueError("not a date")
    month, year = found["month"].lower(), int(found["year"])
    if year == 0 and not month.isdecimal():
        return None
    # Old tools print two digits of the year; no license of theirs ended before 1970.
    century = 0 if len(found["year"]) == 4 or year >= 100 else 1900 if year >= 70 else 2000
    return date(century + year, int(month) if month.isdecimal() else _MONTHS.index(month) + 1, int(found["day"]))


def shape(line: str) -> str:
    """Return the shape of a line without its letters, because any word of it may be a person's name."""
    bare = re.sub(r"[^\W\d_]", "x", re.sub(r"\d", "0", line.strip()[: _SHOWN_LETTERS + 1]))
    return bare if len(bare) <= _SHOWN_LETTERS else f"{bare[:_SHOWN_LETTERS]}..."


@dataclass
class Block:
    """The report of one feature while its lines are read; attributes as in `Counted` and `Feature`.

    Attributes:
        total: `None` until the number of seats was read.
        unlimited: The server does not count the feature.
        unknown: The reason to give if `total` stays `None`.
        pool: The identity of the pool of its seats; several blocks may tell of one. Empty where that is not told.
    """

    name: str
    total: int | None = None
    used: int = 0
    reserved: int = 0
    queued: int = 0
    expires: date | None = None
    unlimited: bool = False
    unknown: str = "its count was not told"
    pool: str = ""
    locks: tuple[str, ...] | None = None
    reservations: list[Reservation] = field(default_factory=list[Reservation])
    checkouts: list[Checkout] = field(default_factory=list[Checkout])

    def reserve(self, kind: str, name: str, count: int) -> None:
        """Note a reservation."""
        self.reserved += count
        self.reservations.append(Reservation(kind=kind, name=name, count=count))

    def usage(self) -> Usage:
        """Return the seats as read so far."""
        if self.unlimited:
            return Unlimited(expires=self.expires)
        if self.total is None:
            return Unknown(reason=self.unknown)
        return Counted(
            total=self.total, used=self.used, reserved=self.reserved, queued=self.queued, expires=self.expires
        )


@dataclass
class Output:
    """The output of a vendor's program, and the state of its reading.

    Iteration yields the lines that are not blank. A line that was not understood is a doubt; doubts are told together,
    because garbage has many.

    Attributes:
        server: Subject of the findings.
        keeps_checkouts: Keep the holders of seats; user names are personal data.
        blocks: The features so far.
        failure: The error that the output tells of.
        number: Number of the present line, from 1.
        line: The present line.
    """

    text: str
    server: str
    keeps_checkouts: bool
    blocks: list[Block] = field(default_factory=list[Block])
    failure: str | None = None
    number: int = 0
    line: str = ""
    doubts: int = 0
    _shown: list[str] = field(default_factory=list[str])

    def __iter__(self) -> Iterator[str]:
        """Yield the lines; a line too long for any vendor is a doubt."""
        # Not by `splitlines`: it would break lines at characters that may be part of a name.
        for number, raw in enumerate(self.text.split("\n"), 1):
            self.number, self.line = number, raw.rstrip()
            if len(self.line) > MAX_LINE:
                self.doubt()
            elif self.line:
                yield self.line

    def doubt(self, number: int | None = None, line: str | None = None) -> None:
        """Note a line that was not understood: the present one, or another."""
        self.doubts += 1
        if len(self._shown) < _SHOWN_LINES:
            self._shown.append(
                f"line {number or self.number} of the form '{shape(self.line if line is None else line)}'"
            )

    def begin(self, name: str) -> Block:
        """Begin the block of a feature and return it."""
        self.blocks.append(Block(name))
        return self.blocks[-1]

    def hold(self, found: re.Match[str], block: Block | None = None) -> None:
        """Note a holder of seats, a match with `user`, `host` and `count`, in the present block or another."""
        holder = Checkout(user=found["user"], host=found["host"], count=int(found["count"]))
        (block or self.blocks[-1]).checkouts.append(holder)

    def day(self, text: str | None) -> date | None:
        """Return the day of expiry that the present line tells; one that is not understood is a doubt."""
        try:
            return parse_expiry(text) if text else None
        except ValueError:
            self.doubt()
            return None

    def remark(self, failed: re.Pattern[str] | None, known: re.Pattern[str]) -> None:
        """Read a line about no feature: an error, `why` of `failed`, or one of the known rest, or a doubt."""
        if failed is not None and (found := failed.fullmatch(self.line)):
            self.failure = found["why"]
        elif self.line and not known.fullmatch(self.line):
            self.doubt()

    def features(self) -> tuple[Feature, ...]:
        """Return the features; those of one name are one."""
        return merged(
            Feature(
                name=block.name,
                usage=block.usage(),
                locks=block.locks,
                checkouts=tuple(block.checkouts) if self.keeps_checkouts else None,
                reservations=tuple(block.reservations),
                pool=block.pool,
            )
            for block in _pooled(self.blocks)
        )

    def findings(self) -> tuple[Finding, ...]:
        """Return at most one finding about all doubtful lines."""
        if not self.doubts:
            return ()
        more = f" and {self.doubts - len(self._shown)} more" if self.doubts > len(self._shown) else ""
        lines = "a line of its output was" if self.doubts == 1 else f"{self.doubts} lines of its output were"
        return (
            Finding(
                subject=self.server,
                problem=f"{lines} not understood: {', '.join(self._shown)}{more}",
                remedy="please report the output, with names replaced; its counts may be incomplete",
            ),
        )

    def reading(self) -> Reading:
        """Return the reading of the whole output; garbage alone is a failure."""
        features, failure = self.features(), self.failure
        if not features:
            garbage = "its output was not understood" if self.doubts else None
            return Reading(findings=self.findings(), failure=garbage if failure is None else failure)
        trouble = Finding(subject=self.server, problem=failure or "", remedy="see the server's log")
        return Reading(features=features, findings=(*((trouble,) if failure else ()), *self.findings()))


def _pooled(blocks: list[Block]) -> list[Block]:
    """Return the blocks with the seats of each pool once for each feature, and with all holders of the pool."""
    pools: dict[str, dict[str, Block]] = {}
    for block in blocks:
        if block.pool:
            pools.setdefault(block.pool, {}).setdefault(block.name, block)
    for members in pools.values():
        holders = [holder for block in members.values() for holder in block.checkouts]
        for block in members.values():
            block.checkouts = holders
    return [block for block in blocks if not block.pool or pools[block.pool][block.name] is block]

"""People who hold seats, stocks of seats that they hold them of, and lines that no vendor prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from hypothesis import strategies as st

from prefect_slots.detect.licenses.report import Counted, Reading, Unlimited, Usage

SECRET = "Zaphod"
"""Part of every user's name, so that a name that leaks is found."""

ODD = "abzAZ059 .-_'\"$`\\@#;,()/:[]éß"
HOSTS = st.sampled_from(["ws-1", "ws-10", "gpu-1.lab.example", "PC_7", "10.0.0.7"])
GARBAGE = st.sampled_from(["<html>", "Segmentation fault", "!! 7 of 9", "\x00\x01\x02", "x" * 5000, "Zaphod has it"])
DAYS = st.dates(date(2020, 1, 1), date(2069, 12, 31))
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]


@dataclass(frozen=True)
class Holder:
    user: str
    host: str
    count: int
    lingering: int = 0
    display: str = ""


@dataclass(frozen=True)
class Stock:
    """What a server has of one feature under one licence."""

    name: str
    total: int
    used: int
    reserved: int
    queued: int
    unlimited: bool
    expires: date | None
    holders: tuple[Holder, ...]

    @property
    def usage(self) -> Usage:
        if self.unlimited:
            return Unlimited(expires=self.expires)
        return Counted(
            total=self.total, used=self.used, reserved=self.reserved, queued=self.queued, expires=self.expires
        )


def users(alphabet: str = ODD) -> st.SearchStrategy[str]:
    """Names without spaces at their ends."""
    return st.text(alphabet, max_size=8).map(lambda text: f"{SECRET}{text}".strip())


def holders(alphabet: str = ODD, most: int = 50) -> st.SearchStrategy[Holder]:
    """Holders of at least one seat each."""
    return st.builds(Holder, user=users(alphabet), host=HOSTS, count=st.integers(1, most))


def stocks(
    names: str = r"[A-Za-z][A-Za-z0-9_.-]{0,8}",
    *,
    unlimited: bool = False,
    reserved: bool = False,
    queued: bool = False,
    lasting: bool = True,
) -> st.SearchStrategy[list[Stock]]:
    """Stocks of a server; the flags say what a vendor's output can tell."""
    one = st.builds(
        Stock,
        name=st.from_regex(names, fullmatch=True),
        total=st.integers(0, 10**6),
        used=st.integers(0, 10**6),
        reserved=st.integers(0, 9) if reserved else st.just(0),
        queued=st.integers(0, 9) if queued else st.just(0),
        unlimited=st.booleans() if unlimited else st.just(False),
        expires=st.none() | DAYS if lasting else DAYS,
        holders=st.lists(holders(), max_size=3).map(tuple),
    )
    return st.lists(one, max_size=5)


def together(usages: Sequence[Usage]) -> Usage:
    """Return what usages of one name are in all: those that are counted, summed."""
    counted = [usage for usage in usages if isinstance(usage, Counted)]
    free = [usage for usage in usages if isinstance(usage, Unlimited)]
    days = [usage.expires for usage in counted or free if usage.expires is not None]
    if not counted:
        return Unlimited(expires=min(days, default=None))
    return Counted(
        total=sum(usage.total for usage in counted),
        used=sum(usage.used for usage in counted),
        reserved=sum(usage.reserved for usage in counted),
        queued=sum(usage.queued for usage in counted),
        expires=min(days, default=None),
    )


def scattered(data: st.DataObject, pieces: Sequence[Sequence[str]]) -> tuple[str, int]:
    """Print pieces with blank lines and garbage between them; return the text and how many lines are garbage."""
    garbage = data.draw(st.lists(GARBAGE, max_size=4))
    printed = [list(piece) for piece in pieces]
    for line in [*garbage, *data.draw(st.lists(st.sampled_from(["", "   "]), max_size=3))]:
        printed.insert(data.draw(st.integers(0, len(printed))), [line])
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    return "".join(f"{line}{end}" for piece in printed for line in piece), len(garbage)


def agree(reading: Reading, present: Sequence[Stock], garbage: int) -> None:
    """Assert that what was read is what is present, that garbage is told, and that no name shows."""
    by_name = {stock.name: [other for other in present if other.name == stock.name] for stock in present}
    assert {f.name: f.usage for f in reading.features} == {
        name: together([stock.usage for stock in found]) for name, found in by_name.items()
    }
    for feature in reading.features:
        held = [(h.user, h.host, h.count) for stock in by_name[feature.name] for h in stock.holders]
        assert feature.checkouts is not None
        assert sorted((c.user, c.host, c.count) for c in feature.checkouts) == sorted(held)
    what = "a line of its output was" if garbage == 1 else f"{garbage} lines of its output were"
    told = [finding.problem for finding in reading.findings]
    assert [problem.startswith(f"{what} not understood") for problem in told] == [True] * bool(garbage)
    assert reading.failure == ("its output was not understood" if garbage and not present else None)
    assert SECRET not in repr(reading)

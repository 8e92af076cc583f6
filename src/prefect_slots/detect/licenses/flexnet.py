"""FlexNet: the output of `lmutil lmstat`, feature by feature.

The number in a feature's own line wins over the list below it, which may be shorter or longer; in use are checkouts and
reservations, without queued requests. Errors stand in the text and come with exit status 0, and a group of three
servers of which one is dead still counts rightly, so the text alone is judged.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from prefect_slots.detect.licenses.report import (
    Checkout,
    Counted,
    Doubts,
    Feature,
    Reading,
    Unknown,
    Unlimited,
    Usage,
    earliest,
    merged,
    numbered,
    parse_expiry,
)
from prefect_slots.model.finding import Finding

# Letters of a server's error that a finding quotes: garbage may be long.
_SHOWN: Final = 200

_USERS_OF: Final = re.compile(r"\s*+Users of (?P<name>\S+):\s*(?P<said>.*)")
_TOTAL: Final = re.compile(r"\(Total of (\d+) licenses?\s+issued;\s+Total of (\d+) licenses?\s+in\s+use\)")
_UNSUPPORTED: Final = re.compile(r"\(Error: (.*)\)")
_CANNOT_GET: Final = re.compile(r"\s*+Cannot get users of (?P<name>\S+): (?P<why>.*)")

# The list of a feature's holders. Greedy from the left, because a user or a display may hold anything at all.
_HELD: Final = re.compile(
    r"\s++(?P<holder>.*) \(v[^()]*\) \([^()]*/\d+ \d+\)"
    r"(?:, start \w+ \d+/\d+ \d+:\d+(?::\d+)?(?:, (?P<count>\d+) licenses?)?"
    r"(?: \(linger: (?P<linger>\d+)(?: / (?P<of>\d+))?\))?(?:, PID: \d+)?"
    r"|,? queued for (?P<queued>\d+) licenses?)"
)
_RESERVED: Final = re.compile(r"\s++(?P<count>\d+) RESERVATIONs? for \S+ .*\([^()]*/\d+(?: \d+)?\)")
_LICENCE: Final = re.compile(r'\s*+"[^"]+" v\S*, vendor: [^,\s]+(?:, expiry: (?P<expiry>.+))?')
_LOCK: Final = re.compile(r"\s*+(?:uncounted )?nodelocked license(?:,? locked to (?P<lock>.+))?")
_FLOATING: Final = re.compile(r"\s*+floating license")
_VENDOR_STRING: Final = re.compile(r"\s*+vendor_string:.*")

_SERVER_UP: Final = re.compile(r"\s*+(?P<host>\S+): license server UP(?P<master> \(MASTER\))?(?: v.*)?")
_DAEMON_UP: Final = re.compile(r"\s*+\S+: UP v.*")
_DOWN: Final = re.compile(r"\s*+(?P<who>\S+): (?P<why>license server DOWN.*|.*\(-\d+,\d+.*\))")
_FAILED: Final = re.compile(
    r"\s*+(?:Error getting status|lmgrd is not running|(?:Fle[xX][nN]et Licensing|FLEX(?:net Licensing|lm)) error):"
    r"\s*+(?P<why>.*)"
)
_KNOWN: Final = re.compile(
    r"\s*+(?:lm(?:util|stat) - Copyright.*|Flexible License Manager status on .*|\[Detecting lmgrd processes\.\.\.\]"
    r"|License server status: .*|License file\(s\) on .*|Vendor daemon status \(on .*\):|Feature usage info:|-{4,}"
    r"|NOTE:.*|Feature: .*|License path: .*|For further information.*|available at .*)"
)


@dataclass
class _Block:
    """The lines of one feature so far."""

    name: str
    usage: Usage
    queued: int = 0
    reserved: int = 0
    expiries: list[str] = field(default_factory=list[str])
    locks: list[str | None] = field(default_factory=list["str | None"])
    checkouts: list[Checkout] = field(default_factory=list[Checkout])


def parse_flexnet(text: str, *, server: str, checkouts: bool = False) -> Reading:
    """Read the output of `lmutil lmstat`.

    Args:
        text: Its whole output.
        server: Subject of the findings.
        checkouts: Keep the holders of seats; user names are personal data.
    """
    reader = _Reader(server, checkouts=checkouts)
    for number, line in numbered(text, reader.doubts):
        reader.read(number, line)
    return reader.reading()


class _Reader:
    def __init__(self, server: str, *, checkouts: bool) -> None:
        self.doubts = Doubts()
        self._server = server
        self._keeps_checkouts = checkouts
        self._blocks: list[_Block] = []
        self._down: dict[str, str] = {}
        self._errors: list[str] = []
        self._masters: dict[str, str] = {}
        self._wrapped: tuple[int, str] | None = None

    def read(self, number: int, line: str) -> None:
        if self._wrapped is not None:
            number, line = self._wrapped[0], f"{self._wrapped[1]} {line.strip()}"
            self._wrapped = None
        elif _USERS_OF.fullmatch(line) and "(Total" in line and ")" not in line:
            self._wrapped = number, line
            return
        if not (
            self._read_header(number, line) or (self._blocks and self._read_listed(self._blocks[-1], number, line))
        ):
            self._read_status(number, line)

    def _read_header(self, number: int, line: str) -> bool:
        if found := _CANNOT_GET.fullmatch(line):
            self._blocks.append(_Block(name=found["name"], usage=Unknown(reason=found["why"][:_SHOWN])))
            return True
        if found := _USERS_OF.fullmatch(line):
            self._blocks.append(_Block(name=found["name"], usage=self._said(found["said"], number, line)))
            return True
        return False

    def _said(self, said: str, number: int, line: str) -> Usage:
        if found := _TOTAL.fullmatch(said):
            return Counted(total=int(found[1]), used=int(found[2]))
        if said == "(Uncounted, node-locked)":
            return Unlimited()
        if found := _UNSUPPORTED.fullmatch(said) or _CANNOT_GET.fullmatch(said):
            return Unknown(reason=found[found.lastindex or 0][:_SHOWN])
        self.doubts.add(number, line)
        return Unknown(reason="its count was not understood")

    def _read_listed(self, block: _Block, number: int, line: str) -> bool:
        """Read a line below a feature's own; return false for any other line."""
        if found := _HELD.fullmatch(line):
            self._held(block, found)
        elif found := _RESERVED.fullmatch(line):
            block.reserved += int(found["count"])
        elif found := _LICENCE.fullmatch(line):
            if found["expiry"] is not None:
                try:
                    parse_expiry(found["expiry"])
                    block.expiries.append(found["expiry"])
                except ValueError:
                    self.doubts.add(number, line)
        elif found := _LOCK.fullmatch(line):
            block.locks.append(found["lock"] or "")
        elif _FLOATING.fullmatch(line):
            block.locks.append(None)
        else:
            return _VENDOR_STRING.fullmatch(line) is not None
        return True

    def _held(self, block: _Block, found: re.Match[str]) -> None:
        if found["queued"] is not None:
            block.queued += int(found["queued"])
        elif self._keeps_checkouts:
            user, host, display = (*found["holder"].split(" ", 2), "", "")[:3]
            block.checkouts.append(
                Checkout(
                    user=user,
                    host=host,
                    display=display,
                    count=int(found["count"] or 1),
                    lingering=int(found["of"] or found["linger"] or 0),
                )
            )

    def _read_status(self, number: int, line: str) -> None:
        if _KNOWN.fullmatch(line) or _DAEMON_UP.fullmatch(line):
            return
        if found := _SERVER_UP.fullmatch(line):
            if found["master"]:
                self._masters[found["host"].casefold()] = found["host"]
        elif found := _FAILED.fullmatch(line):
            self._errors.append(found["why"][:_SHOWN])
        elif found := _DOWN.fullmatch(line):
            self._down[found["who"].casefold()] = f"{found['who']}: {found['why']}"[:_SHOWN]
        else:
            self.doubts.add(number, line)

    def reading(self) -> Reading:
        if self._wrapped is not None:
            self._read_header(*self._wrapped)
        features = merged(self._feature(block) for block in self._blocks)
        troubles = (*self._errors, *self._down.values())
        failure = None
        if not features and (troubles or self.doubts):
            failure = "; ".join(troubles) or "its output was not understood"
        return Reading(
            features=features,
            findings=(
                *(self._trouble(words) for words in troubles),
                *self._split(),
                *self.doubts.findings(self._server),
            ),
            failure=failure,
        )

    def _feature(self, block: _Block) -> Feature:
        usage = block.usage
        expires = earliest(parse_expiry(text) for text in block.expiries)
        if isinstance(usage, Counted):
            usage = Counted(
                total=usage.total, used=usage.used, reserved=block.reserved, queued=block.queued, expires=expires
            )
        elif isinstance(usage, Unlimited):
            usage = Unlimited(expires=expires)
        return Feature(
            name=block.name,
            usage=usage,
            locks=_locks(block.locks),
            checkouts=tuple(block.checkouts) if self._keeps_checkouts else None,
        )

    def _trouble(self, words: str) -> Finding:
        return Finding(
            subject=self._server, problem=words, remedy="see the server's log, and `lmutil lmdiag` on this machine"
        )

    def _split(self) -> tuple[Finding, ...]:
        if len(self._masters) < 2:
            return ()
        return (
            Finding(
                subject=self._server,
                problem=f"{' and '.join(self._masters.values())} each call themselves master, so seats may count twice",
                remedy="restart the licence servers one after the other",
            ),
        )


def _locks(told: list[str | None]) -> tuple[str, ...] | None:
    if not told:
        return None
    return () if None in told else tuple(lock for lock in told if lock is not None)

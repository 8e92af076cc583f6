"""LS-DYNA: the table that `lstc_qrun -R` prints; programs of one license group share the group's seats."""

import re
from dataclasses import dataclass, field
from datetime import date
from typing import Final

from prefect_slots.detect.licenses.report import Checkout, Counted, Doubts, Feature, Reading, day_of, numbered, told

_PROGRAM: Final = re.compile(
    r"(?P<name>\S+)\s+(?P<expires>\d+/\d+/\d+)\s+(?:\d+\s+(?=\S+\s+\d+\s+\d+\s))?"
    r"(?P<used>\d+|-)\s+(?P<free>\d+)\s+(?P<max>\d+)\s+\|\s+(?P<queue>\d+)"
)
_GROUP: Final = re.compile(r"\s*+LICENSE GROUP\s+(?P<used>\d+)\s+(?P<free>\d+)\s+(?P<max>\d+)\s+\|\s+(?P<queue>\d+)")
_USED: Final = re.compile(r"\s++(?P<user>.+?)\s++\d+@(?P<host>\S+)\s+(?P<count>\d+)")
_FAILED: Final = re.compile(r"\s*+\*\*\* ERROR (?P<why>.*)")
_KNOWN: Final = re.compile(
    r"\s*+(?:Using (?:user specified|default) server .*|LICENSE INFORMATION|PROGRAM\s+EXPIRATION.*|[-| ]+)"
)


@dataclass
class _Program:
    name: str
    expires: date | None
    used: int
    total: int
    queued: int
    checkouts: list[Checkout] = field(default_factory=list[Checkout])


def parse_lsdyna(text: str, *, server: str, checkouts: bool = False) -> Reading:
    """Read the output of `lstc_qrun -R`."""
    doubts, failure = Doubts(), None
    programs: list[_Program] = []
    grouped = 0
    for number, line in numbered(text, doubts):
        if found := _PROGRAM.fullmatch(line):
            total = int(found["max"])
            # A dash stands in place of the sum if rows of users follow.
            used = total - int(found["free"]) if found["used"] == "-" else int(found["used"])
            expires = day_of(found["expires"], doubts, number, line)
            programs.append(_Program(found["name"], expires, used, total, int(found["queue"])))
        elif found := _GROUP.fullmatch(line):
            for program in programs[grouped:]:
                if program.total == int(found["max"]):
                    program.used = int(found["used"])
            grouped = len(programs)
        elif programs and (found := _USED.fullmatch(line)):
            holder = Checkout(user=found["user"], host=found["host"], count=int(found["count"]))
            programs[-1].checkouts.append(holder)
        elif found := _FAILED.fullmatch(line):
            failure = found["why"]
        elif not _KNOWN.fullmatch(line):
            doubts.add(number, line)
    features = (
        Feature(
            name=program.name,
            usage=Counted(total=program.total, used=program.used, queued=program.queued, expires=program.expires),
            checkouts=tuple(program.checkouts) if checkouts else None,
        )
        for program in programs
    )
    return told(features, doubts, server, failure)

"""LM-X: the output of `lmxendutil -licstat`, feature by feature; keys of one feature are summed."""

import re
from dataclasses import dataclass, field
from datetime import date
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
    day_of,
    numbered,
    told,
)

# The server's own number for a key without a limit.
UNLIMITED: Final = 2**31 - 1

_FEATURE: Final = re.compile(r"\s*+Feature: (?P<name>.+?) Version: \S+ Vendor: .+")
_DATES: Final = re.compile(r"\s*+Start date: \S+ Expire date: (?P<expires>\S+)")
_COUNT: Final = re.compile(r"\s*+(?P<used>\d+) of (?P<total>\d+|unlimited) license\(s\) used:?", re.IGNORECASE)
_USED: Final = re.compile(r"\s*+(?P<count>\d+) license\(s\) used by (?P<user>.+)@(?P<host>\S+)(?: \[[^\]]*\])?")
_FAILED: Final = re.compile(
    r"\s*+(?P<why>There are no license server\(s\) available\.?|(?:Error|Failed|Unable|Cannot)\b.*)", re.IGNORECASE
)
_KNOWN: Final = re.compile(
    r"\s*+(?:LM-X End-user Utility .*|Copyright .*|\+{4,}|-{4,}|LM-X License Server on .*|LM-X license server\(s\):"
    r"|Server version: .*|Key type: .*|Login time: .*|Shared on .*|Borrow expire time: .*)",
    re.IGNORECASE,
)


@dataclass
class _Key:
    """The lines of one key of a feature so far."""

    name: str
    expires: date | None = None
    count: tuple[str, str] | None = None
    checkouts: list[Checkout] = field(default_factory=list[Checkout])

    def usage(self) -> Usage:
        if self.count is None:
            return Unknown(reason="its count was not told")
        used, total = self.count
        if not total.isdigit() or int(total) >= UNLIMITED:
            return Unlimited(expires=self.expires)
        return Counted(total=int(total), used=int(used), expires=self.expires)


def parse_lmx(text: str, *, server: str, checkouts: bool = False) -> Reading:
    """Read the output of `lmxendutil -licstat`."""
    doubts, failure = Doubts(), None
    keys: list[_Key] = []
    for number, line in numbered(text, doubts):
        key = keys[-1] if keys else None
        if found := _FEATURE.fullmatch(line):
            keys.append(_Key(name=found["name"]))
        elif key is not None and (found := _USED.fullmatch(line)):
            key.checkouts.append(Checkout(user=found["user"], host=found["host"], count=int(found["count"])))
        elif key is not None and (found := _COUNT.fullmatch(line)):
            key.count = found["used"], found["total"]
        elif key is not None and (found := _DATES.fullmatch(line)):
            key.expires = day_of(found["expires"], doubts, number, line)
        elif not keys and (found := _FAILED.fullmatch(line)):
            failure = found["why"]
        elif not _KNOWN.fullmatch(line):
            doubts.add(number, line)
    features = (
        Feature(name=key.name, usage=key.usage(), checkouts=tuple(key.checkouts) if checkouts else None) for key in keys
    )
    return told(features, doubts, server, failure)

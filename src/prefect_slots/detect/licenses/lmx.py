"""LM-X: the output of `lmxendutil -licstat`, feature by feature; keys of one feature are summed."""

import re

from prefect_slots.detect.licenses.output import Output
from prefect_slots.detect.licenses.report import Reading

# The server's own number for a key without a limit.
UNLIMITED = 2**31 - 1

_FEATURE = re.compile(r"\s*+Feature: (?P<name>.+?) Version: \S+ Vendor: .+")
_DATES = re.compile(r"\s*+Start date: \S+ Expire date: (?P<expires>\S+)")
_COUNT = re.compile(r"\s*+(?P<used>\d+) of (?P<total>\d+|unlimited) license\(s\) used:?", re.IGNORECASE)
_USED = re.compile(r"\s*+(?P<count>\d+) license\(s\) used by (?P<user>.+)@(?P<host>\S+)(?: \[[^\]]*\])?")
_FAILED = re.compile(
    r"\s*+(?P<why>There are no license server\(s\) available\.?|(?:Error|Failed|Unable|Cannot)\b.*)", re.IGNORECASE
)
_KNOWN = re.compile(
    r"\s*+(?:LM-X End-user Utility .*|Copyright .*|\+{4,}|-{4,}|LM-X License Server on .*|LM-X license server\(s\):"
    r"|[A-Z][\w /()-]*: .*)",
    re.IGNORECASE,
)


def parse_lmx(text: str, *, server: str, checkouts: bool = False) -> Reading:
    """Read the output of `lmxendutil -licstat`."""
    output = Output(text, server, checkouts)
    for line in output:
        key = output.blocks[-1] if output.blocks else None
        if found := _FEATURE.fullmatch(line):
            output.begin(found["name"])
        elif key is None:
            output.remark(_FAILED, _KNOWN)
        elif found := _USED.fullmatch(line):
            output.hold(found)
        elif found := _COUNT.fullmatch(line):
            key.unlimited = not found["total"].isdigit() or int(found["total"]) >= UNLIMITED
            key.total, key.used = (None, 0) if key.unlimited else (int(found["total"]), int(found["used"]))
        elif found := _DATES.fullmatch(line):
            key.expires = output.day(found["expires"])
        else:
            # An error counts before the first feature only: below, its words may be part of a name.
            output.remark(None, _KNOWN)
    return output.reading()

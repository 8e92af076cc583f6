"""LS-DYNA: the table that `lstc_qrun -R` prints; programs of one license group share the group's seats."""

import re

from prefect_slots.detect.licenses.output import Output
from prefect_slots.detect.licenses.report import Reading

_PROGRAM = re.compile(
    r"(?P<name>\S+)\s+(?P<expires>\d+/\d+/\d+)\s+(?:\d+\s+(?=\S+\s+\d+\s+\d+\s))?"
    r"(?P<used>\d+|-)\s+(?P<free>\d+)\s+(?P<max>\d+)\s+\|\s+(?P<queue>\d+|-)"
)
_GROUP = re.compile(r"\s*+LICENSE GROUP\s+(?P<used>\d+)\s+(?P<free>\d+)\s+(?P<max>\d+)\s+\|\s+(?P<queue>\d+|-)")
_USED = re.compile(r"\s++(?P<user>.+?)\s++\d+@(?P<host>\S+)\s+(?P<count>\d+)")
_FAILED = re.compile(r"\s*+\*\*\* ERROR (?P<why>.*)")
_KNOWN = re.compile(
    r"\s*+(?:Using (?:user specified|default) server .*|LICENSE INFORMATION|PROGRAM\s+EXPIRATION.*|[-| ]+)"
)


def parse_lsdyna(text: str, *, server: str, checkouts: bool = False) -> Reading:
    """Read the output of `lstc_qrun -R`."""
    output = Output(text, server, checkouts)
    grouped = 0
    for line in output:
        if found := _PROGRAM.fullmatch(line):
            program = output.begin(found["name"])
            program.total, program.queued = int(found["max"]), 0 if found["queue"] == "-" else int(found["queue"])
            # A dash stands in place of the sum if rows of users follow.
            program.used = program.total - int(found["free"]) if found["used"] == "-" else int(found["used"])
            program.expires = output.day(found["expires"])
        elif found := _GROUP.fullmatch(line):
            # The group's line stands below its programs; one of another maximum is not of the group.
            for program in output.blocks[grouped:]:
                if program.total == int(found["max"]):
                    program.used, program.pool = int(found["used"]), f"group {grouped}"
            grouped = len(output.blocks)
        elif output.blocks and (found := _USED.fullmatch(line)):
            output.hold(found)
        else:
            output.remark(_FAILED, _KNOWN)
    return output.reading()

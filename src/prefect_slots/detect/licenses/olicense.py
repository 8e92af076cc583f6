"""OLicense: the output of `olixtool -sv`; a module that stands in several licenses has the seats of all of them."""

import re

from prefect_slots.detect.licenses.output import Output
from prefect_slots.detect.licenses.report import Reading

_MODULE = re.compile(r"\s*+(?P<name>[^;]*\S)\s*+;\s*(?P<kind>\w+)\s*;\s*(?P<total>\d+)\s*;\s*(?P<expires>[^;]*);?")
_LOCKED = re.compile(r"\s*+(?P<used>\d+) FloatsLockedBy(?::| 'unknown clients':?)")
_USED = re.compile(r"\s++(?P<user>.+)@(?P<host>\S+) #(?P<count>\d+)")
_FAILED = re.compile(r"\s*+(?P<why>OlComm \d+.*)")
_KNOWN = re.compile(
    r"\s*+(?:olixtool .*|Copyright .*|Server: .*|List of requested licenses:|={4,}|-{4,}"
    r"|[A-Z][\w -]*:(?:\s.*)?|Name; LicenseType; .*)"
)


def parse_olicense(text: str, *, server: str, checkouts: bool = False) -> Reading:
    """Read the output of `olixtool -sv`."""
    output = Output(text, server, checkouts)
    for line in output:
        if output.blocks and (found := _USED.fullmatch(line)):
            output.hold(found)
        elif found := _MODULE.fullmatch(line):
            module = output.begin(found["name"])
            module.expires = output.day(found["expires"].strip())
            # Only a floating license has seats to share; the number of another counts machines.
            if "float" in found["kind"].lower():
                module.total = int(found["total"])
            module.unknown = f"a licence of the kind {found['kind']} has no seats to share"
        elif output.blocks and (found := _LOCKED.fullmatch(line)):
            # Seats of known and of unknown clients stand in lines of their own, and add up.
            output.blocks[-1].used += int(found["used"])
        else:
            output.remark(_FAILED, _KNOWN)
    return output.reading()

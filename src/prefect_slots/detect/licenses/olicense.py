"""OLicense: the output of `olixtool -sv`; a module that stands in several licenses has the seats of all of them."""

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
    Usage,
    day_of,
    numbered,
    told,
)

_MODULE: Final = re.compile(
    r"\s*+(?P<name>[^;]*\S)\s*+;\s*(?P<kind>\w+)\s*;\s*(?P<total>\d+)\s*;\s*(?P<expires>[^;]*);?"
)
_LOCKED: Final = re.compile(r"\s*+(?P<used>\d+) FloatsLockedBy(?::| 'unknown clients':?)")
_USED: Final = re.compile(r"\s++(?P<user>.+)@(?P<host>\S+) #(?P<count>\d+)")
_FAILED: Final = re.compile(r"\s*+(?P<why>OlComm \d+.*)")
_KNOWN: Final = re.compile(
    r"\s*+(?:olixtool .*|Copyright .*|Server: .*|List of requested licenses:|={4,}|-{4,}"
    r"|(?:Application|VersionRange|Licenser|Licensee|License-ID|Modules):.*|Name; LicenseType; .*)"
)


@dataclass
class _Module:
    name: str
    kind: str
    total: int
    expires: date | None
    used: int = 0
    checkouts: list[Checkout] = field(default_factory=list[Checkout])

    def usage(self) -> Usage:
        if "float" not in self.kind.lower():
            return Unknown(reason=f"a licence of the kind {self.kind} has no seats to share")
        return Counted(total=self.total, used=self.used, expires=self.expires)


def parse_olicense(text: str, *, server: str, checkouts: bool = False) -> Reading:
    """Read the output of `olixtool -sv`."""
    doubts, failure = Doubts(), None
    modules: list[_Module] = []
    for number, line in numbered(text, doubts):
        if modules and (found := _USED.fullmatch(line)):
            holder = Checkout(user=found["user"], host=found["host"], count=int(found["count"]))
            modules[-1].checkouts.append(holder)
        elif found := _MODULE.fullmatch(line):
            expires = day_of(found["expires"].strip(), doubts, number, line)
            modules.append(_Module(found["name"], found["kind"], int(found["total"]), expires))
        elif modules and (found := _LOCKED.fullmatch(line)):
            modules[-1].used += int(found["used"])
        elif found := _FAILED.fullmatch(line):
            failure = found["why"]
        elif not _KNOWN.fullmatch(line):
            doubts.add(number, line)
    features = (
        Feature(name=module.name, usage=module.usage(), checkouts=tuple(module.checkouts) if checkouts else None)
        for module in modules
    )
    return told(features, doubts, server, failure)

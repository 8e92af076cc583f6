"""RLM: the output of `rlmutil rlmstat -a`, pool by pool; the pools of one product are summed.

The pool's own line wins over the list of users: rows that share a handle show the same seats again. The manual
does not say if `inuse` holds reservations, so they count on top of it, within what there is.
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
    day_of,
    numbered,
    told,
)

_POOL: Final = re.compile(r"\s*+(?P<name>\S+) v\S+?(?:, pool: \d+)?")
_COUNT: Final = re.compile(
    r"\s*+count: (?P<count>\d+|unlimited|uncounted), # reservations: (?P<reserved>\d+), inuse: (?P<inuse>\d+)"
    r"(?:, exp: (?P<exp>[^,]+))?(?:,.*)?",
    re.IGNORECASE,
)
_TOKENS: Final = re.compile(r"\s*+Token-based license.*", re.IGNORECASE)
_USED: Final = re.compile(
    r"\s*+(?P<name>\S+) v\S+: (?P<user>.+)@(?P<host>\S+) (?P<count>\d+)/\d+ at \d+/\d+ \d+:\d+(?:\s+\(.*\))?"
)
_FAILED: Final = re.compile(r'\s*+(?P<why>Error connecting to ".*" server.*)', re.IGNORECASE)
_KNOWN: Final = re.compile(
    r"\s*+(?:Setting license file path to .*|rlm(?:util|stat) v.*|Copyright .*|-{4,}.*|obsolete: \d+, min_remove: .*"
    r"|\S+ (?:ISV server |license pool |license usage )?status on .*|\S+ (?:software|comm) version:? v.*"
    r"|\S+ \w+ log filename:.*|Startup time: .*|(?:Todays|Recent) Statistics .*|Recent Stats .*"
    r"|\d\d:\d\d:\d\d +\d.*|(?:Messages|Connections|Checkouts|Denials|Removals): .*|Name +Port +Running.*"
    r"|\S+ +\d+ +(?:Yes|No) +\d+|Connection attempted to host: .*|No error)",
)


@dataclass
class _Held:
    usages: dict[str, list[Usage]] = field(default_factory=dict[str, "list[Usage]"])
    checkouts: dict[str, list[Checkout]] = field(default_factory=dict[str, "list[Checkout]"])


def parse_rlm(text: str, *, server: str, checkouts: bool = False) -> Reading:
    """Read the output of `rlmstat -a`."""
    doubts, held, failure = Doubts(), _Held(), None
    pool: tuple[str, int, str] | None = None
    for number, line in numbered(text, doubts):
        usage = _usage(line, doubts, number) if pool is not None else None
        if pool is not None and usage is not None:
            held.usages.setdefault(pool[0], []).append(usage)
            pool = None
            continue
        if pool is not None:
            # Its count did not follow: how many seats it has cannot be told.
            held.usages.setdefault(pool[0], []).append(Unknown(reason="its count was not told"))
            doubts.add(pool[1], pool[2])
            pool = None
        if found := _USED.fullmatch(line):
            holder = Checkout(user=found["user"], host=found["host"], count=int(found["count"]))
            held.checkouts.setdefault(found["name"], []).append(holder)
        elif _KNOWN.fullmatch(line):
            continue
        elif found := _FAILED.fullmatch(line):
            failure = found["why"]
        elif found := _POOL.fullmatch(line):
            pool = found["name"], number, line
        else:
            doubts.add(number, line)
    if pool is not None:
        held.usages.setdefault(pool[0], []).append(Unknown(reason="its count was not told"))
        doubts.add(pool[1], pool[2])
    features = (
        Feature(name=name, usage=usage, checkouts=tuple(held.checkouts.pop(name, ())) if checkouts else None)
        for name, usages in held.usages.items()
        for usage in usages
    )
    return told(features, doubts, server, failure)


def _usage(line: str, doubts: Doubts, number: int) -> Usage | None:
    """Return the usage in the line below a pool's name; `None` for any other line."""
    if _TOKENS.fullmatch(line):
        return Unknown(reason="it is drawn from the tokens of another product")
    found = _COUNT.fullmatch(line)
    if found is None:
        return None
    expires = day_of(found["exp"], doubts, number, line)
    if not found["count"].isdigit():
        return Unlimited(expires=expires)
    total, reserved = int(found["count"]), int(found["reserved"])
    used = max(int(found["inuse"]), min(total, int(found["inuse"]) + reserved))
    return Counted(total=total, used=used, reserved=reserved, expires=expires)

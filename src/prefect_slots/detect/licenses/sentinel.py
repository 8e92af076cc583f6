"""Sentinel RMS: the output of `lsmon`, feature by feature.

Only the block about the feature itself counts: those about its licenses repeat its words with other numbers, and may be
inactive. Tokens that are reserved are nobody else's, used or not.
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

# Versions of the server print these numbers if there is no limit.
INFINITE: Final = frozenset({4294967294, 4294967295, 2097150})

_FIELD: Final = re.compile(r"\s*+\|-\s*(?P<key>[^:]*[^:\s])\s*+:\s*+(?P<value>.*)")
_HEADING: Final = re.compile(r"\s*+\|-\s*(?P<section>\w+) Information")
_REMARK: Final = re.compile(r"\s*+\|-\s*[^:]+")
_FAILED: Final = re.compile(
    r"\s*+(?P<why>(?:Error\b|.*\b(?:cannot|failed|unable|not running|could not)\b).*)", re.IGNORECASE
)
_KNOWN: Final = re.compile(
    r"\s*+(?:Sentinel RMS .*|Copyright .*|\[Contacting .*\]|Press Enter .*|-{4,}|={4,})", re.IGNORECASE
)
_NUMBERS: Final = (
    "Unreserved tokens in use",
    "Total reserved tokens",
    "Reserved tokens in use",
    "Unreserved tokens in queue",
)


@dataclass
class _Block:
    name: str
    fields: dict[str, tuple[int, str]] = field(default_factory=dict[str, "tuple[int, str]"])
    clients: list[dict[str, str]] = field(default_factory=list[dict[str, str]])


def parse_sentinel(text: str, *, server: str, checkouts: bool = False) -> Reading:
    """Read the output of `lsmon`."""
    doubts, failure = Doubts(), None
    blocks: list[_Block] = []
    section = "Feature"
    for number, line in numbered(text, doubts):
        if found := _FIELD.fullmatch(line):
            key, value = found["key"], found["value"]
            name = value.strip('"')
            if key == "Feature name" and not (section == "License" and blocks and blocks[-1].name == name):
                blocks.append(_Block(name=name))
                section = "Feature"
            elif blocks and section == "Feature":
                blocks[-1].fields[key] = number, value
            elif blocks and section == "Client":
                if key == "User name":
                    blocks[-1].clients.append({})
                if blocks[-1].clients:
                    blocks[-1].clients[-1][key] = value
        elif found := _HEADING.fullmatch(line):
            section = found["section"]
        elif not blocks and (found := _FAILED.fullmatch(line)):
            failure = found["why"]
        elif not (_REMARK.fullmatch(line) or _KNOWN.fullmatch(line)):
            doubts.add(number, line)
    features = [
        Feature(
            name=block.name,
            usage=_usage(block, doubts),
            checkouts=tuple(map(_checkout, block.clients)) if checkouts else None,
        )
        for block in blocks
    ]
    return told(features, doubts, server, failure)


def _usage(block: _Block, doubts: Doubts) -> Usage:
    number, text = block.fields.get("Maximum concurrent user(s)", (0, ""))
    when, day = block.fields.get("Expiration date", (0, ""))
    expires = day_of(day, doubts, when, day)
    if text.rstrip(".").lower() in ("unlimited", "infinite") or (text.isdecimal() and int(text) in INFINITE):
        return Unlimited(expires=expires)
    told = {key: block.fields[key] for key in _NUMBERS if key in block.fields}
    wrong = [place for place in told.values() if not place[1].isdecimal()]
    if not text.isdecimal() or wrong or _NUMBERS[0] not in told:
        for place in wrong or ([(number, text)] if number else []):
            doubts.add(*place)
        return Unknown(reason="its count was not told")
    in_use, reserved, reserved_used, queued = (int(told.get(key, (0, "0"))[1]) for key in _NUMBERS)
    reserved = max(reserved, reserved_used)
    return Counted(total=int(text), used=in_use + reserved, reserved=reserved, queued=queued, expires=expires)


def _checkout(client: dict[str, str]) -> Checkout:
    count = client.get("Number of tokens used", "1")
    return Checkout(
        user=client["User name"],
        host=client.get("Host name", ""),
        display=client.get("X display name", ""),
        count=int(count) if count.isdecimal() else 1,
    )

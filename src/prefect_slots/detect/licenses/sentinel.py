"""Sentinel RMS: the output of `lsmon`, feature by feature.

Only the block about the feature itself counts: those about its licenses repeat its words with other numbers, and may be
inactive. Tokens that are reserved are nobody else's, used or not.
"""

import re
from dataclasses import dataclass, field

from prefect_slots.detect.licenses.output import Block, Output
from prefect_slots.detect.licenses.report import Checkout, Reading

# Versions of the server print these numbers if there is no limit.
INFINITE = frozenset({4294967294, 4294967295, 2097150})

_FIELD = re.compile(r"\s*+\|-\s*(?P<key>[^:]*[^:\s])\s*+:\s*+(?P<value>.*)")
_HEADING = re.compile(r"\s*+\|-\s*(?P<section>[\w ]+) Information:?")
_REMARK = re.compile(r"\s*+\|-\s*[^:]+")
_FAILED = re.compile(r"\s*+(?P<why>(?:Error\b|.*\b(?:cannot|failed|unable|not running|could not)\b).*)", re.IGNORECASE)
_KNOWN = re.compile(
    r"\s*+(?:Sentinel RMS .*|.* Application Monitor|Copyright .*|\[Contacting .*\]|Press Enter .*|-{4,}|={4,}"
    r"|No licensed features\.|There is no license in the server .*)",
    re.IGNORECASE,
)
_NUMBERS = (
    "Unreserved tokens in use",
    "Total reserved tokens",
    "Reserved tokens in use",
    "Unreserved tokens in queue",
)


@dataclass
class _Fields:
    """The lines about one feature and its clients; each of the feature's own values has its line's number."""

    name: str
    feature: dict[str, tuple[int, str]] = field(default_factory=dict[str, "tuple[int, str]"])
    clients: list[dict[str, str]] = field(default_factory=list[dict[str, str]])


def parse_sentinel(text: str, *, server: str, checkouts: bool = False) -> Reading:
    """Read the output of `lsmon`."""
    output = Output(text, server, checkouts)
    told: list[_Fields] = []
    section = "Feature"
    for line in output:
        if found := _HEADING.fullmatch(line):
            section = found["section"]
        elif found := _FIELD.fullmatch(line):
            key, value = found["key"], found["value"]
            name = value.strip('"')
            if key == "Feature name" and not (section == "License" and told and told[-1].name == name):
                told.append(_Fields(name=name))
                section = "Feature"
            elif told and section == "Feature":
                told[-1].feature[key] = output.number, value
            elif told and section == "Client":
                if key == "User name":
                    told[-1].clients.append({})
                if told[-1].clients:
                    told[-1].clients[-1][key] = value
        elif not _REMARK.fullmatch(line):
            # Below the first feature, the words of an error may be part of a name.
            output.remark(None if told else _FAILED, _KNOWN)
    for fields in told:
        block = output.begin(fields.name)
        _count(block, fields.feature, output)
        block.checkouts = list(map(_checkout, fields.clients))
    return output.reading()


def _count(block: Block, fields: dict[str, tuple[int, str]], output: Output) -> None:
    output.number, output.line = fields.get("Expiration date", (0, ""))
    block.expires = output.day(output.line)
    _, locking = fields.get("Application-server locking", (0, ""))
    if locking:
        codes = tuple(value for key, (_, value) in fields.items() if re.fullmatch(r"Client.* locking code", key))
        block.locks = (codes or ("",)) if locking.startswith("Client") else ()
    number, text = fields.get("Maximum concurrent user(s)", (0, ""))
    if text.rstrip(".").lower() in ("unlimited", "infinite") or (text.isdecimal() and int(text) in INFINITE):
        block.unlimited = True
        return
    # Older servers do not print all of these numbers; the seats in use must be among them.
    told = {key: fields[key] for key in _NUMBERS if key in fields}
    wrong = [place for place in told.values() if not place[1].isdecimal()]
    if not text.isdecimal() or wrong or _NUMBERS[0] not in told:
        for place in wrong or ([(number, text)] if number else []):
            output.doubt(*place)
        return
    in_use, reserved, reserved_used, block.queued = (int(told.get(key, (0, "0"))[1]) for key in _NUMBERS)
    block.total, block.reserved = int(text), max(reserved, reserved_used)
    block.used = in_use + block.reserved


def _checkout(client: dict[str, str]) -> Checkout:
    count = client.get("Number of tokens used", "1")
    return Checkout(
        user=client["User name"],
        host=client.get("Host name", ""),
        display=client.get("X display name", ""),
        count=int(count) if count.isdecimal() else 1,
    )

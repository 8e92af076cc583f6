"""DSLS: the table that `getLicenseUsage -csv` prints, one row per session; a license's own numbers repeat in each.

A row is as long as its license is used: without a session it ends after the seats in use.
"""

import csv
import re
from dataclasses import dataclass, field
from datetime import date
from typing import Final

from prefect_slots.detect.licenses.report import Checkout, Counted, Doubts, Feature, Reading, day_of, numbered, told

_PROMPT: Final = re.compile(r"(?:\s*admin\s?>)*\s*")
_NEEDED: Final = ("Feature", "Expiration Date", "Count", "Inuse")
_FAILED: Final = re.compile(
    r"\s*+(?P<why>(?:.*\b(?:cannot|failed|unable|not reachable|refused|timed out)\b|error\b).*)", re.IGNORECASE
)
_KNOWN: Final = re.compile(r"\s*+(?:={4,}|-{4,}|Ready|quit|connect .*|getLicenseUsage.*|\w[\w ()-]*:(?: .*)?)")


@dataclass
class _Licence:
    """The rows of one license so far."""

    name: str
    total: int
    expires: date | None
    used: int = 0
    queued: int = 0
    checkouts: list[Checkout] = field(default_factory=list[Checkout])


def parse_dsls(text: str, *, server: str, checkouts: bool = False) -> Reading:
    """Read the output of `DSLicSrv -admin` for `getLicenseUsage -csv`."""
    doubts, failure = Doubts(), None
    columns: dict[str, int] = {}
    licences: dict[tuple[str, ...], _Licence] = {}
    for number, prompted in numbered(text, doubts):
        line = prompted[_PROMPT.match(prompted).end() :]  # pyright: ignore[reportOptionalMemberAccess]
        cells = next(csv.reader([line]), [])
        if set(_NEEDED) <= set(cells):
            columns = {name: place for place, name in enumerate(cells)}
        elif columns and len(cells) > columns["Inuse"]:
            try:
                _read_row(cells, columns, licences, doubts, number)
            except ValueError:
                doubts.add(number, line)
        elif not columns and (found := _FAILED.fullmatch(line)):
            failure = found["why"]
        elif line and not _KNOWN.fullmatch(line):
            doubts.add(number, line)
    features = (
        Feature(
            name=licence.name,
            usage=Counted(total=licence.total, used=licence.used, queued=licence.queued, expires=licence.expires),
            checkouts=tuple(licence.checkouts) if checkouts else None,
        )
        for licence in licences.values()
    )
    return told(features, doubts, server, failure)


def _read_row(
    cells: list[str],
    columns: dict[str, int],
    licences: dict[tuple[str, ...], _Licence],
    doubts: Doubts,
    number: int,
) -> None:
    def cell(name: str) -> str:
        place = columns.get(name, len(cells))
        return cells[place].strip() if place < len(cells) else ""

    total, used = int(cell("Count")), int(cell("Inuse"))
    tokens, waits = int(cell("Tokens") or 1), int(cell("Queue Position") or 0) > 0
    # Editor, model, expiry, customer and so on distinguish the licenses of one feature.
    identity = tuple(cells[: columns["Inuse"]])
    if identity not in licences:
        expires = day_of(cell("Expiration Date"), doubts, number, ",".join(cells))
        licences[identity] = _Licence(cell("Feature"), total, expires)
    licence = licences[identity]
    licence.used = max(licence.used, used)
    if waits:
        licence.queued += tokens
    elif cell("User"):
        host = cell("Host").split("/")[0].split(" ")[0]
        licence.checkouts.append(Checkout(user=cell("User"), host=host, count=tokens))

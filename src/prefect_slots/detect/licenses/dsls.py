"""DSLS: the table that `getLicenseUsage -csv` prints, one row per session; a license's own numbers repeat in each.

A row is as long as its license is used: without a session it ends after the seats in use.
"""

import csv
import re
from itertools import zip_longest

from prefect_slots.detect.licenses.output import Block, Output
from prefect_slots.detect.licenses.report import Checkout, Reading

_PROMPT = re.compile(r"(?:\s*admin\s?>)*\s*")
_NEEDED = ("Feature", "Expiration Date", "Count", "Inuse")
_FAILED = re.compile(
    r"\s*+(?P<why>(?:.*\b(?:cannot|failed|unable|not reachable|refused|timed out)\b|error\b).*)", re.IGNORECASE
)
_KNOWN = re.compile(
    r"\s*+(?:={4,}|-{4,}|Ready|quit|connect .*|getLicenseUsage.*|License Administration Tool .*"
    r"|\w[\w ()-]* mode\b.*|\w[\w ()-]*:(?:\s.*)?)"
)


def parse_dsls(text: str, *, server: str, checkouts: bool = False) -> Reading:
    """Read the output of `DSLicSrv -admin` for `getLicenseUsage -csv`."""
    output = Output(text, server, checkouts)
    columns: list[str] = []
    licenses: dict[tuple[str, ...], Block] = {}
    for prompted in output:
        output.line = _PROMPT.sub("", prompted, count=1)
        # The reader raises for a line's end within a line, which a broken server may print.
        cells = next(csv.reader([output.line.replace("\r", " ")]), [])
        if set(_NEEDED) <= set(cells):
            columns = cells
        elif columns and len(cells) > columns.index("Inuse"):
            try:
                # A row ends after the seats in use where nobody uses the license.
                words = [cell.strip() for cell in cells[: len(columns)]]
                # Editor, model, expiry, customer and so on distinguish the licenses of one feature.
                identity = tuple(cells[: columns.index("Inuse")])
                _read_row(dict(zip_longest(columns, words, fillvalue="")), identity, licenses, output)
            except ValueError:
                output.doubt()
        else:
            output.remark(None if columns else _FAILED, _KNOWN)
    return output.reading()


def _read_row(
    row: dict[str, str], identity: tuple[str, ...], licenses: dict[tuple[str, ...], Block], output: Output
) -> None:
    total, used = int(row["Count"]), int(row["Inuse"])
    tokens, waits = int(row.get("Tokens") or 1), int(row.get("Queue Position") or 0) > 0
    if identity not in licenses:
        licenses[identity] = output.begin(row["Feature"])
        licenses[identity].total, licenses[identity].expires = total, output.day(row["Expiration Date"])
    block = licenses[identity]
    block.used = max(block.used, used)
    if waits:
        block.queued += tokens
    elif row.get("User") and row.get("Model") == "NamedUser":
        # Such a license is its user's for weeks, at work or not.
        block.reserve("USER", row["User"], tokens)
    elif row.get("User"):
        host = row.get("Host", "").split("/")[0].split(" ")[0]
        block.checkouts.append(Checkout(user=row["User"], host=host, count=tokens))

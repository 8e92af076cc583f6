"""Whatever programs and licence groups an LS-DYNA server has, their seats are read as they are."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.property.effort import effort
from tests.property.licenses.holders import Stock, agree, scattered, stocks

from prefect_slots.detect.licenses.lsdyna import parse_lsdyna

HEAD = """\
Using user specified server 31010@lic-a
LICENSE INFORMATION
PROGRAM          EXPIRATION CPUS  USED   FREE    MAX | QUEUE
---------------- ----------      ----- ------ ------ | -----
""".splitlines()


def program(data: st.DataObject, stock: Stock, *, grouped: bool) -> list[list[str]]:
    free = stock.total - stock.used
    dashed = bool(stock.holders) and data.draw(st.booleans())
    shown = "-" if dashed else str(data.draw(st.integers(0, 9))) if grouped else str(stock.used)
    assert stock.expires is not None
    day = f"{stock.expires:%m/%d/%Y}"
    cpus = data.draw(st.sampled_from(["", "     0"]))
    row = f"{stock.name:16} {day}{cpus}      {shown:>5} {free:>6} {stock.total:>6} | {stock.queued:>5}"
    return [[row], *([f" {h.user}  {77 + n}@{h.host}  {h.count}"] for n, h in enumerate(stock.holders))]


@effort(70)
@given(data=st.data(), drawn=stocks(r"[A-Z][A-Z0-9_-]{0,8}", queued=True, lasting=False), grouped=st.booleans())
def test_the_programs_of_a_server_are_what_is_read(data: st.DataObject, drawn: list[Stock], grouped: bool) -> None:
    present = [replace(stock, total=stock.total + stock.used) for stock in drawn]
    if grouped and present:
        pool = present[0]
        named = {stock.name: replace(stock, total=pool.total, used=pool.used) for stock in present}
        present = list(named.values())
    pieces = [[line] for line in HEAD]
    pieces += [piece for stock in present for piece in program(data, stock, grouped=grouped)]
    if grouped and present:
        free = present[0].total - present[0].used
        pieces.append(
            [f"                   LICENSE GROUP {present[0].used:>5} {free:>6} {present[0].total:>6} |     0"]
        )
    text, garbage = scattered(data, pieces)
    if grouped:
        # The seats of a group, and so its holders, are those of each of its programs.
        everybody = tuple(holder for stock in present for holder in stock.holders)
        present = [replace(stock, holders=everybody) for stock in present]
    agree(parse_lsdyna(text, server="31010@lic-a", checkouts=True), present, garbage)

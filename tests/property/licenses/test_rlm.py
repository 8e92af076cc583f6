"""Whatever state an RLM server is in, its pools are read as they are."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.property.effort import effort
from tests.property.licenses.holders import MONTHS, Stock, agree, scattered, stocks

from prefect_slots.detect.licenses.rlm import parse_rlm

HEAD = """\
Setting license file path to 5053@lic-a
rlmutil v15.1
Copyright (C) 2006-2024, Reprise Software, Inc. All rights reserved.
rlm status on lic-a (port 5053), up 9d 01:02:03
rlm software version v15.1 (build:3)
Recent Stats         Todays Stats         Total Stats
 00:12:09             07:15:02         4d 02:11:33
Messages:    41 (0/sec)           1210 (0/sec)          88105 (0/sec)
--------- ISV servers ----------
   Name           Port Running Restarts
toolsd           49821   Yes      0
""".splitlines()


def pool(data: st.DataObject, number: int, stock: Stock, margin: str) -> list[str]:
    day = "permanent"
    if stock.expires is not None:
        day = f"{stock.expires.day}-{MONTHS[stock.expires.month - 1]}-{stock.expires.year}"
    count = "uncounted" if stock.unlimited else str(stock.total)
    inuse = stock.used - stock.reserved
    return [
        f"{margin}{stock.name} v{data.draw(st.sampled_from(['1.0', '2026.1']))}"
        f"{data.draw(st.sampled_from(['', f', pool: {number}']))}",
        f"{margin}\tcount: {count}, # reservations: {stock.reserved}, inuse: {inuse}, exp: {day}",
        f"{margin}\tobsolete: 0, min_remove: 120, total checkouts: 9",
    ]


def used(data: st.DataObject, stock: Stock) -> list[list[str]]:
    handle = data.draw(st.sampled_from(["  (handle: 2b1)", ""]))
    return [[f"\t{stock.name} v1.0: {h.user}@{h.host} {h.count}/0 at 11/01 09:01{handle}"] for h in stock.holders]


@effort(70)
@given(data=st.data(), drawn=stocks(unlimited=True, reserved=True))
def test_the_pools_of_a_server_are_what_is_read(data: st.DataObject, drawn: list[Stock]) -> None:
    # Reserved seats are some of those in use, and no more are in use than there are.
    present = [replace(s, used=s.used + s.reserved, total=s.used + s.reserved + s.total) for s in drawn]
    margin = data.draw(st.sampled_from(["", "\t", "    "]))
    pieces = [*([line] for line in HEAD)] if data.draw(st.booleans()) else []
    pieces += [[f"{margin}toolsd license pool status on lic-a (port 49821)"]]
    pieces += [pool(data, number, stock, margin) for number, stock in enumerate(present, 1)]
    pieces += [["------------------------"], ["toolsd license usage status on lic-a (port 49821)"]]
    pieces += [row for stock in present for row in used(data, stock)]
    text, garbage = scattered(data, pieces)
    reading = parse_rlm(text, server="5053@lic-a", checkouts=True)
    agree(reading, present, garbage)

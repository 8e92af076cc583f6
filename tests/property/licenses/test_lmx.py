"""Whatever state an LM-X server is in, its features are read as they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.property.effort import effort
from tests.property.licenses.holders import Stock, agree, scattered, stocks

from prefect_slots.detect.licenses.lmx import parse_lmx

HEAD = """\
LM-X End-user Utility v5.1
Copyright (C) 2002-2024 X-Formation. All rights reserved.
++++++++++++++++++++++++++++++++++++++++
LM-X License Server on 6200@lic-a:
Server version: v5.1 Uptime: 8 day(s) 1 hour(s) 14 min(s) 5 sec(s)
""".splitlines()


def feature(data: st.DataObject, stock: Stock) -> list[list[str]]:
    total = data.draw(st.sampled_from(["2147483647", "unlimited"])) if stock.unlimited else str(stock.total)
    pieces = [
        ["----------------------------------------"],
        [f"Feature: {stock.name} Version: 21.0 Vendor: TOOLS INC"],
        [f"Start date: NONE Expire date: {stock.expires or 'NONE'}"],
        ["Key type: EXCLUSIVE License sharing: CUSTOM VIRTUAL"],
        [f"{stock.used} of {total} license(s) used{':' if stock.holders else data.draw(st.sampled_from(['', ':']))}"],
    ]
    for holder in stock.holders:
        address = data.draw(st.sampled_from(["", " [10.0.0.7]", " [fe80::1] "]))
        pieces.append([f"{holder.count} license(s) used by {holder.user}@{holder.host}{address}"])
        pieces.append([data.draw(st.sampled_from(["    Login time: 2026-11-02 09:26", "Shared on username: x"]))])
    return pieces


@effort(70)
@given(data=st.data(), present=stocks(r"[A-Za-z][A-Za-z0-9_.: -]{0,8}[A-Za-z]", unlimited=True))
def test_the_features_of_a_server_are_what_is_read(data: st.DataObject, present: list[Stock]) -> None:
    pieces = [[line] for line in HEAD] + [piece for stock in present for piece in feature(data, stock)]
    text, garbage = scattered(data, pieces)
    agree(parse_lmx(text, server="6200@lic-a", checkouts=True), present, garbage)

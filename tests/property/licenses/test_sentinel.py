"""Whatever features a Sentinel RMS server has, their tokens are read as they are."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.property.effort import effort
from tests.property.licenses.holders import Stock, agree, scattered, stocks

from prefect_slots.detect.licenses.sentinel import parse_sentinel

HEAD = """\
Sentinel RMS Development Kit 9.7.0.0044 Application Monitor
  Copyright (C) 2020 Thales
[Contacting Sentinel RMS Development Kit server on host "lic-a"]
""".splitlines()


def feature(data: st.DataObject, stock: Stock) -> list[list[str]]:
    total = str(stock.total)
    if stock.unlimited:
        total = data.draw(st.sampled_from(["Unlimited", "4294967294", "2097150"]))
    day = f"{stock.expires:%a %b %d} 23:59:59 {stock.expires.year}" if stock.expires else None
    pieces = [f'Feature name                   : "{stock.name}"  ', 'Feature version                : "1.0"']
    pieces += ["License type                   : Normal License", f"Maximum concurrent user(s)     : {total}"]
    pieces += [f"Unreserved tokens in use       : {stock.used - stock.reserved}"]
    pieces += [f"Total reserved tokens          : {stock.reserved}"]
    pieces += [f"Reserved tokens in use         : {data.draw(st.integers(0, stock.reserved))}"]
    pieces += [f"Unreserved tokens in queue     : {stock.queued}"] if stock.queued else []
    pieces += [f"Expiration date                : {day}" if day else "License has no expiration date."]
    lines = [["  |- Feature Information"]] if data.draw(st.booleans()) else []
    lines += [[f"   |- {piece}"] for piece in pieces]
    for state in data.draw(st.lists(st.sampled_from(["Active", "Inactive"]), max_size=2)):
        lines += [["   |- License Information"], [f'     |- Feature name   : "{stock.name}"']]
        lines += [["     |- Maximum concurrent user(s)     : 7"], ["     |- Unreserved tokens in use : 99"]]
        lines += [[f"     |- License status : {state}"]]
    for h in stock.holders:
        lines += [["   |- Client Information"], [f"     |- User name : {h.user}"], [f"     |- Host name : {h.host}"]]
        lines += [[f"     |- Number of tokens used : {h.count}"], ["     |- Is Commuter Token : NO"]]
    return lines


@effort(70)
@given(data=st.data(), drawn=stocks(unlimited=True, reserved=True, queued=True))
def test_the_features_of_a_server_are_what_is_read(data: st.DataObject, drawn: list[Stock]) -> None:
    # A block that repeats the name of the feature before it is that feature's own licence: features differ.
    distinct = {stock.name: stock for stock in drawn}.values()
    present = [replace(stock, used=stock.used + stock.reserved) for stock in distinct]
    pieces = [[line] for line in HEAD] + [piece for stock in present for piece in feature(data, stock)]
    text, garbage = scattered(data, pieces)
    agree(parse_sentinel(text, server="5093@lic-a", checkouts=True), present, garbage)

"""Whatever licences and sessions a DSLS server has, its seats are read as they are."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.property.effort import effort
from tests.property.licenses.holders import Stock, agree, holders, scattered, stocks

from prefect_slots.detect.licenses.dsls import parse_dsls

COLUMNS = (
    "Editor,EditorId,Feature,Model,Commercial Type,Max Release Number,Max Release Date,Pricing Structure,"
    "Max Casual Duration,Expiration Date,Customer ID,Count,Inuse,Tokens,Casual Usage,Host,User,Internal ID,"
    "Active Process,Client Code Version,Session ID,Granted Since,Last Used At,Granted At,Queue Position"
)
BANNER = """\
================================================================================
admin >         Software version: 6.425.3
        Build number: 7
        Ready
""".splitlines()


def row(*cells: object) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def licence(data: st.DataObject, stock: Stock, customer: int) -> list[list[str]]:
    day = stock.expires
    assert day is not None
    expires = f"{day.month}/{day.day}/{day.year % 100:02} 11:59:00 PM"
    own = ["Tools, Inc", "5E75-7", stock.name, "Token", "STD", 6, "4/4/26 11:00:00 PM", "ALC", 0, expires]
    own += [f"DSI{customer}", stock.total, stock.used]
    sessions = [(holder, "") for holder in stock.holders]
    sessions += [(replace(data.draw(holders()), count=1), str(place + 1)) for place in range(stock.queued)]
    if not sessions:
        return [[row(*own)]]
    return [
        [row(*own, h.count, "", f"{h.host} (41d-7)/10.0.0.7", h.user, "id", "p", "6", "s", "t", "t", "t", place)]
        for h, place in sessions
    ]


@effort(30)
@given(data=st.data(), present=stocks(queued=True, lasting=False))
def test_the_licences_of_a_server_are_what_is_read(data: st.DataObject, present: list[Stock]) -> None:
    head = data.draw(st.sampled_from(["", "admin >", "admin > admin >"])) + COLUMNS
    rows = [piece for number, stock in enumerate(present) for piece in licence(data, stock, number)]
    pieces = [*([line] for line in BANNER), [head], *rows, ["admin >quit"]]
    text, garbage = scattered(data, pieces)
    agree(parse_dsls(text, server="4085@lic-a", checkouts=True), present, garbage)

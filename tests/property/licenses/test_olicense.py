"""Whatever licences an OLicense server has, the seats of their modules are read as they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.property.effort import effort
from tests.property.licenses.holders import Stock, agree, scattered, stocks

from prefect_slots.detect.licenses.olicense import parse_olicense

HEAD = """\
olixtool 4.8.0 - OLicense XML Status Application
Copyright (C) 2007-2013 Optimum GmbH, Karlsruhe, Germany
Server: <10.0.0.7:31212:0> (Proxy: <>)
List of requested licenses:
""".splitlines()
LICENCE = """\
==============================================
Application:\ttyres
VersionRange:\t0-20261
Licenser:\tTools GmbH
Licensee:\tZaphod B.
License-ID:\ttyres-7@lic-a
Modules:
  Name; LicenseType; FloatCount; Expiration
  --------------------------------------------
""".splitlines()


def module(data: st.DataObject, stock: Stock) -> list[list[str]]:
    day = f"{stock.expires} 23:59:59" if stock.expires else data.draw(st.sampled_from(["", "never"]))
    pieces = [[f"  {stock.name};         \tFreeFloating;\t{stock.total};\t{day};"]]
    strangers = 0 if not stock.used else data.draw(st.integers(0, stock.used))
    if stock.used - strangers:
        pieces.append([f"    {stock.used - strangers} FloatsLockedBy:"])
    pieces += [[f"      {h.user}@{h.host} #{h.count}"] for h in stock.holders]
    if strangers:
        pieces.append([f"    {strangers} FloatsLockedBy 'unknown clients'"])
    return pieces


@effort(70)
@given(data=st.data(), present=stocks(r"[A-Za-z][A-Za-z0-9_. -]{0,8}[A-Za-z]"))
def test_the_modules_of_a_server_are_what_is_read(data: st.DataObject, present: list[Stock]) -> None:
    pieces = [[line] for line in HEAD]
    for stock in present:
        pieces += [[line] for line in LICENCE] + module(data, stock)
    text, garbage = scattered(data, pieces)
    agree(parse_olicense(text, server="31212@lic-a", checkouts=True), present, garbage)

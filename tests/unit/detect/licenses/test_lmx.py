"""`lmxendutil` as servers print it: each oddity once."""

from __future__ import annotations

from datetime import date

from prefect_slots.detect.licenses.lmx import parse_lmx
from prefect_slots.detect.licenses.report import Counted, Reading, Unknown, Unlimited

BUSY = """\
LM-X End-user Utility v5.1
Copyright (C) 2002-2024 X-Formation. All rights reserved.

++++++++++++++++++++++++++++++++++++++++
LM-X License Server on 6200@lic-a:

Server version: v5.1 Uptime: 8 day(s) 1 hour(s) 14 min(s) 5 sec(s)
----------------------------------------
Feature: Mesher Version: 21.0 Vendor: TOOLS INC
Start date: 2026-02-17 Expire date: 2027-01-31
Key type: EXCLUSIVE License sharing: CUSTOM VIRTUAL

21000 of 60000 license(s) used:

9000 license(s) used by Mia Lee@ws-07 [10.0.0.7]
    Login time: 2026-11-02 09:26   Checkout time: 2026-11-02 09:29
    Shared on custom string: MIA:WS-07
12000 license(s) used by otto@ws-09.lab_ver2026 [10.0.0.9]
    Borrow expire time: 2026-11-09 09:26
----------------------------------------
Feature: Viewer Version: 21.0 Vendor: TOOLS INC
Start date: NONE Expire date: NONE
Key type: EXCLUSIVE License sharing: HOST USER VIRTUAL

0 of 2147483647 license(s) used
"""


def parse(text: str) -> Reading:
    return parse_lmx(text, server="6200@lic-a", checkouts=True)


def test_a_busy_server_is_understood_to_the_last_line():
    reading = parse(BUSY)
    assert (reading.findings, reading.failure) == ((), None)
    mesher, viewer = reading.features
    assert mesher.usage == Counted(total=60000, used=21000, expires=date(2027, 1, 31))
    assert viewer.usage == Unlimited()
    assert mesher.checkouts is not None
    assert [checkout.count for checkout in mesher.checkouts] == [9000, 12000]
    assert mesher.checkouts[0].belongs_to("mia lee", "ws-07")


def test_a_feature_whose_count_is_missing_is_unknown():
    text = BUSY.replace("0 of 2147483647 license(s) used\n", "many license(s) used\n")
    reading = parse(text)
    assert reading.features[1].usage == Unknown(reason="its count was not told")
    assert [finding.problem[:6] for finding in reading.findings] == ["a line"]


def test_a_server_that_is_away_is_a_failure():
    text = BUSY.split("LM-X License Server")[0] + "LM-X license server(s):\n----------------------------------------\n"
    reading = parse(text + "There are no license server(s) available.\n")
    assert reading == Reading(failure="There are no license server(s) available.")

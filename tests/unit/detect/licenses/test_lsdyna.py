"""`lstc_qrun` as servers print it: each oddity once."""

from __future__ import annotations

from datetime import date

from prefect_slots.detect.licenses.lsdyna import parse_lsdyna
from prefect_slots.detect.licenses.report import Checkout, Counted, Reading

BUSY = """\
Using user specified server 31010@lic-a

LICENSE INFORMATION

PROGRAM          EXPIRATION CPUS  USED   FREE    MAX | QUEUE
---------------- ----------      ----- ------ ------ | -----
MPPDYNA          12/30/2026          -     70    320 |     2
 mia          731@ws-07.lab       150
 otto         274@ws-09           100
LS-DYNA          12/30/2026          0     70    320 |     0
                   LICENSE GROUP   250     70    320 |     2
LSOPT            06/01/2027          -      1      4 |     0
 ada           11@ws-01             3
LSPOST           06/01/2027          1      3      4 |     0
"""


def parse(text: str) -> Reading:
    return parse_lsdyna(text, server="31010@lic-a", checkouts=True)


def test_programs_of_a_group_share_its_seats_and_others_have_their_own():
    reading = parse(BUSY)
    assert (reading.findings, reading.failure) == ((), None)
    winter, summer = date(2026, 12, 30), date(2027, 6, 1)
    assert {feature.name: feature.usage for feature in reading.features} == {
        "MPPDYNA": Counted(total=320, used=250, queued=2, expires=winter),
        "LS-DYNA": Counted(total=320, used=250, expires=winter),
        "LSOPT": Counted(total=4, used=3, expires=summer),
        "LSPOST": Counted(total=4, used=1, expires=summer),
    }
    assert reading.features[0].checkouts == (
        Checkout(user="mia", host="ws-07.lab", count=150),
        Checkout(user="otto", host="ws-09", count=100),
    )


def test_a_server_that_is_away_is_a_failure():
    text = "Using default server 31010@localhost\n*** ERROR failed to open server localhost\n"
    assert parse(text) == Reading(failure="failed to open server localhost")


def test_a_row_of_another_shape_is_told():
    reading = parse(BUSY.replace("LSPOST           06/01/2027", "LSPOST           never"))
    assert [feature.name for feature in reading.features] == ["MPPDYNA", "LS-DYNA", "LSOPT"]
    assert [finding.problem[:6] for finding in reading.findings] == ["a line"]

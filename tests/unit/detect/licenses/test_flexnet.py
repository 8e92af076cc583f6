"""`lmstat` as servers print it: each oddity once, in a text that reads like the real thing."""

from __future__ import annotations

from datetime import date

import pytest

from prefect_slots.detect.licenses.flexnet import parse_flexnet
from prefect_slots.detect.licenses.report import Checkout, Counted, Reading, Unknown, Unlimited

BUSY = """\
lmutil - Copyright (c) 1989-2021 Flexera. All Rights Reserved.
Flexible License Manager status on Mon 11/2/2026 09:15

[Detecting lmgrd processes...]
License server status: 27000@lic-a
    License file(s) on lic-a: /opt/lm/site.lic:

     lic-a: license server UP (MASTER) v11.18.0

Vendor daemon status (on lic-a):

   toolsd: UP v11.18.0
Feature usage info:

Users of solve-3D.x:  (Total of 12 licenses issued;  Total of 8 licenses in use)

  "solve-3D.x" v2026.06, vendor: toolsd, expiry: 31-dec-2026
  vendor_string: site:42
  floating license

    mia ws-07 ws-07:1 (v2026.06) (lic-a/27000 1501), start Mon 11/2 8:01
    otto ws-09.lab /dev/pts/3 (v2026.06) (lic-a/27000 1204), start Sun 11/1 23:59, 3 licenses (linger: 3 / 600), PID: 47
    J. R. O'Neil ws-11 Mia's "big" $HOME `x` (v2026.06) (lic-a/27000 88), start Mon 11/2 7:30:12
    lea ws-12 (v2026.06) (lic-a/27000 92) queued for 2 licenses
\t3 RESERVATIONs for HOST_GROUP render farm (lic-a/27000)

  "solve-3D.x" v2025.12, vendor: toolsd, expiry: 1-jan-0
  floating license

    ada ws-01 :0 (v2025.12) (lic-a/27000 77), start Thu 10/29 12:00

Users of view:  (Total of 1 license issued;  Total of 0 license in use)

Users of dev:board:  (Uncounted, node-locked)

Users of old:  (Error: 4 licenses, unsupported by licensed server)

Cannot get users of gone: No such feature exists. (-5,222)
"""

HALF_DEAD = """\
lmstat - Copyright (c) 1989-2012 Flexera Software LLC. All Rights Reserved.
Flexible License Manager status on Mon 11/2/2026 09:15

License server status: 27000@lic-a,27000@lic-b,27000@lic-c
    License file(s) on lic-a: /opt/lm/site.lic:

lic-a: license server UP (MASTER) v11.18.0
LIC-A: license server UP (MASTER) v11.18.0
lic-b: license server UP v11.18.0
lic-c: Cannot connect to license server system. (-15,578:113 "No route to host")

Vendor daemon status (on lic-a):

    toolsd: UP v11.18.0
    extrad: The desired vendor daemon is down. (-97,121)

Users of view:  (Total of 715 license issued;
                 Total of 1 license in use)
"""


def parse(text: str, *, checkouts: bool = False) -> Reading:
    return parse_flexnet(text, server="27000@lic-a", checkouts=checkouts)


def problems(reading: Reading) -> list[str]:
    return [finding.problem for finding in reading.findings]


def test_a_busy_server_is_understood_to_the_last_line():
    reading = parse(BUSY)
    assert (reading.findings, reading.failure) == ((), None)
    assert {feature.name: feature.usage for feature in reading.features} == {
        "solve-3D.x": Counted(total=12, used=8, reserved=3, queued=2, expires=date(2026, 12, 31)),
        "view": Counted(total=1, used=0),
        "dev:board": Unlimited(),
        "old": Unknown(reason="4 licenses, unsupported by licensed server"),
        "gone": Unknown(reason="No such feature exists. (-5,222)"),
    }
    assert [feature.checkouts for feature in reading.features] == [None] * 5


def test_who_holds_what_is_told_when_asked_for():
    feature = parse(BUSY, checkouts=True).find("solve-3D.x")
    assert feature is not None
    assert feature.checkouts is not None
    mia, otto, neil, ada = feature.checkouts
    assert mia == Checkout(user="mia", host="ws-07", display="ws-07:1")
    assert otto == Checkout(user="otto", host="ws-09.lab", display="/dev/pts/3", count=3, lingering=600)
    assert neil.belongs_to("J. R. O'Neil", "ws-11")
    assert ada == Checkout(user="ada", host="ws-01", display=":0")


def test_a_group_of_servers_counts_with_one_dead_and_says_which():
    reading = parse(HALF_DEAD)
    feature = reading.find("view")
    assert feature is not None
    assert feature.usage == Counted(total=715, used=1)
    assert problems(reading) == [
        'lic-c: Cannot connect to license server system. (-15,578:113 "No route to host")',
        "extrad: The desired vendor daemon is down. (-97,121)",
    ]
    assert reading.failure is None


def test_two_servers_that_both_lead_are_told():
    text = HALF_DEAD.replace("lic-b: license server UP", "lic-b: license server UP (MASTER)")
    assert "LIC-A and lic-b each call themselves master, so seats may count twice" in problems(parse(text))


def test_a_feature_of_two_daemons_is_one_sum():
    text = "\n".join(f"Users of aa:  (Total of {n} licenses issued;  Total of 1 licenses in use)" for n in (3, 4))
    assert [feature.usage for feature in parse(text).features] == [Counted(total=7, used=2)]


def test_licences_that_are_all_locked_tell_to_what_and_one_that_floats_unlocks():
    head = "Users of aa:  (Total of 2 licenses issued;  Total of 1 license in use)\n"
    locked = '  "aa" v1, vendor: d\n  nodelocked license, locked to "ID=1A2B"\n'
    held = "    u h h:0 (v1) (s/27000 1), start Mon 11/2 8:01\n"
    (feature,) = parse(head + locked + held).features
    assert feature.locks == ('"ID=1A2B"',)
    (feature,) = parse(head + locked + held + '  "aa" v1, vendor: d\n  floating license\n').features
    assert feature.locks == ()
    (feature,) = parse(head).features
    assert feature.locks is None


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (
            "License server status: 27000@lic-a\n"
            "Error getting status: Cannot connect to license server system. (-15,570:111)\n",
            "Cannot connect to license server system. (-15,570:111)",
        ),
        ("lmgrd is not running: License server machine is down. (-96,7)\n", "License server machine is down. (-96,7)"),
        ("Vendor daemon status (on a):\n  toolsd: The desired vendor daemon is down. (-97,121)\n",
         "toolsd: The desired vendor daemon is down. (-97,121)"),
        ("<html>502 Bad Gateway</html>\n", "its output was not understood"),
    ],
)  # fmt: skip
def test_a_server_that_tells_nothing_says_why_whatever_its_exit_status(text: str, failure: str):
    assert parse(text).failure == failure
    assert parse(text).features == ()


def test_a_line_that_is_not_understood_is_told_without_quoting_it():
    odd = "    zoe ws-99 is holding two of them\n"
    (finding,) = parse(BUSY.replace("Users of view", odd + "Users of view")).findings
    assert finding.problem == (
        "a line of its output was not understood: line 32 of the form 'xxx xx-00 xx xxxxxxx xxx xx xxxx'"
    )


def test_a_count_that_is_not_understood_is_unknown_and_told():
    reading = parse("Users of aa:  (Total of many)\nUsers of bb:  (Total of 2 licenses issued;\n")
    assert [feature.usage for feature in reading.features] == [Unknown(reason="its count was not understood")] * 2
    assert problems(reading)[0].startswith("2 lines of its output were not understood: line 1 of the form")

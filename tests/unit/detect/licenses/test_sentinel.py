"""`lsmon` as servers print it: each oddity once."""

from __future__ import annotations

from datetime import date

import pytest

from prefect_slots.detect.licenses.report import Checkout, Counted, Reading, Unknown, Unlimited
from prefect_slots.detect.licenses.sentinel import parse_sentinel

HEAD = """\
Sentinel RMS Development Kit 9.7.0.0044 Application Monitor
  Copyright (C) 2020 Thales

 [Contacting Sentinel RMS Development Kit server on host "lic-a"]

"""
BUSY = f"""{HEAD}\
 |- Feature Information
   |- Feature name                   : "SOLVER"
   |- Feature version                : "1.0"

   |- License type                   : "Normal License"
   |- Commuter license allowed       : YES
   |- Maximum concurrent user(s)     : 10
   |- Unreserved tokens in use       : 3
   |- Commuter tokens left           : 7
   |- Total reserved tokens          : 2
   |- Reserved tokens in use         : 1
   |- Soft limit on users            : Unlimited
   |- Expiration date                : Thu Dec 31 23:59:59 2026
   |- Additive license

   |- License Information
     |- License Hash                   : A1B2
     |- License status                 : Inactive
     |- Maximum concurrent user(s)     : 4
     |- Unreserved tokens in use       : 0

   |- Client Information
     |- User name                      : mia
     |- Host name                      : ws-07
     |- X display name                 : ws-07:1
     |- Number of tokens used          : 2
     |- Is Commuter Token              : NO
   |- Client Information
     |- User name                      : otto
     |- Host name                      : ws-09

 |- Feature Information
   |- Feature name                   : "VIEWER"
   |- Feature version                : ""
   |- Maximum concurrent user(s)     : Unlimited
   |- Unreserved tokens in use       : 0
   |- License has no expiration date.
"""


def parse(text: str) -> Reading:
    return parse_sentinel(text, server="5093@lic-a", checkouts=True)


def test_a_busy_server_is_understood_and_only_the_features_own_block_counts():
    reading = parse(BUSY)
    assert (reading.findings, reading.failure) == ((), None)
    solver, viewer = reading.features
    assert solver.usage == Counted(total=10, used=5, reserved=2, expires=date(2026, 12, 31))
    assert solver.checkouts == (
        Checkout(user="mia", host="ws-07", display="ws-07:1", count=2),
        Checkout(user="otto", host="ws-09"),
    )
    assert viewer.usage == Unlimited()


@pytest.mark.parametrize("number", ["4294967294", "2097150", "Infinite."])
def test_no_limit_has_several_spellings(number: str):
    reading = parse(BUSY.replace("user(s)     : 10\n", f"user(s)     : {number}\n"))
    assert reading.features[0].usage == Unlimited(expires=date(2026, 12, 31))


@pytest.mark.parametrize(
    ("old", "new", "doubts"),
    [("user(s)     : 10\n", "user(s)     : ten\n", 1), ("in use       : 3\n", "in use       : -\n", 1),
     ("   |- Unreserved tokens in use       : 3\n", "", 1)],
)  # fmt: skip
def test_a_count_that_is_not_told_is_unknown(old: str, new: str, doubts: int):
    reading = parse(BUSY.replace(old, new))
    assert reading.features[0].usage == Unknown(reason="its count was not told")
    assert len(reading.findings) == doubts


@pytest.mark.parametrize(
    ("lines", "locks"),
    [
        ("   |- Application-server locking     : Server-locked license.\n", ()),
        ("   |- Application-server locking     : Client-locked license.\n"
         "   |- Client #1 locking code         : 1004-*1A2B\n", ("1004-*1A2B",)),
        ("", None),
    ],
)  # fmt: skip
def test_locks_are_read_with_users_and_without(lines: str, locks: tuple[str, ...] | None):
    text = BUSY.replace("   |- Soft limit", f"{lines}   |- Soft limit")
    idle = text.split("   |- License Information")[0]
    assert [parse(each).features[0].locks for each in (text, idle)] == [locks, locks]


def test_a_server_that_is_away_is_a_failure():
    reading = parse(f'{HEAD}Error[5]: Cannot talk to the license server on host "lic-a".\n')
    assert reading == Reading(failure='Error[5]: Cannot talk to the license server on host "lic-a".')

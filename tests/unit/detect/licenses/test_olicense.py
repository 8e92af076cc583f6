"""`olixtool` as servers print it: each oddity once."""

from __future__ import annotations

from datetime import date

from prefect_slots.detect.licenses.olicense import parse_olicense
from prefect_slots.detect.licenses.report import Checkout, Counted, Reading, Unknown

HEAD = """\
olixtool 4.8.0 - OLicense XML Status Application
Copyright (C) 2007-2013 Optimum GmbH, Karlsruhe, Germany

Server: <10.0.0.7:31212:0> (Proxy: <>)

"""
BUSY = f"""{HEAD}\
List of requested licenses:

==============================================
Application:\ttyres
VersionRange:\t0-20261
Licenser:\tTools GmbH
Licensee:\tMia Lee
License-ID:\ttyres-7@lic-a
Modules:
  Name; LicenseType; FloatCount; Expiration
  --------------------------------------------
  tyre_model;         \tFreeFloating;\t4;\t2026-12-31 23:59:59;
    3 FloatsLockedBy:
      mia@ws-07.lab #2
      otto@ws-09 #1
    1 FloatsLockedBy 'unknown clients'

==============================================
Application:\ttyres
Modules:
  Name; LicenseType; FloatCount; Expiration
  --------------------------------------------
  tyre_model;         \tFreeFloating;\t1;\t2027-02-28 23:59:00;
  viewer;         \tNodeLocked;\t1;\t2027-02-28 23:59:00;
"""


def parse(text: str) -> Reading:
    return parse_olicense(text, server="31212@lic-a", checkouts=True)


def test_a_module_of_several_licences_has_the_seats_of_all():
    reading = parse(BUSY)
    assert (reading.findings, reading.failure) == ((), None)
    model, viewer = reading.features
    assert model.usage == Counted(total=5, used=4, expires=date(2026, 12, 31))
    assert model.checkouts == (
        Checkout(user="mia", host="ws-07.lab", count=2),
        Checkout(user="otto", host="ws-09"),
    )
    assert viewer.usage == Unknown(reason="a licence of the kind NodeLocked has no seats to share")


def test_a_server_that_is_away_is_a_failure():
    reading = parse(f"{HEAD}OlComm 454 Request cannot connect to target\n")
    assert reading == Reading(failure="OlComm 454 Request cannot connect to target")


def test_a_day_that_is_not_understood_is_told_and_the_seats_stand():
    reading = parse(BUSY.replace("2026-12-31 23:59:59", "someday"))
    assert reading.features[0].usage == Counted(total=5, used=4, expires=date(2027, 2, 28))
    assert [finding.problem[:6] for finding in reading.findings] == ["a line"]

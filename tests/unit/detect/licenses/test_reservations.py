"""Seats that a server sets aside: those for this host, this user or a group that names them are ours, no others."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from prefect_slots.detect.detector import Answer
from prefect_slots.detect.licenses.client import query_options
from prefect_slots.detect.licenses.flexnet import parse_flexnet
from prefect_slots.detect.licenses.here import identities
from prefect_slots.detect.licenses.report import Counted, Feature, Reading
from prefect_slots.detect.licenses.reservations import Claim, Options, claim, parse_options
from prefect_slots.detect.licenses.seats import interpret_seats
from prefect_slots.model import LicenseServer

HERE = identities(["gpu-1.lab.example"], ["10.0.0.7"], ["mia"])
TABLE = LicenseServer(vendor="flexnet", server="1@lic", features=(("aa", "aa"),))
OPTIONS = """\
# members
GROUP ours ann \\
      MIA
HOST_GROUP farm gpu-2 gpu-* # all of them
HOST_GROUP desks ws-1
GROUP theirs ann bob
RESERVE 2 aa GROUP ours
RESERVE 1 "bb:VERSION=2.0" HOST ws-1
MAX 5 aa USER mia
"""


def feature(*lines: str, total: int = 9) -> Feature:
    text = f"Users of aa:  (Total of {total} licenses issued;  Total of {total} licenses in use)\n\n"
    text += '  "aa" v1.0, vendor: acme\n  floating license\n\n'
    reading = parse_flexnet(text + "".join(f"    {line} (lic1/27000)\n" for line in lines), server="1@lic")
    assert reading.findings == ()
    (found,) = reading.features
    return found


def part(*lines: str, table: LicenseServer = TABLE, options: Options | None = None) -> Claim:
    return claim(feature(*lines), table, HERE, options or Options())


@pytest.mark.parametrize(
    ("line", "ours"),
    [
        ("2 RESERVATIONs for HOST gpu-1", 2),
        ("1 RESERVATION for HOST GPU-1.lab.example", 1),
        ("1 RESERVATION for HOST 10.0.0.7", 1),
        ("2 RESERVATIONs for USER Mia", 2),
        ("2 RESERVATIONs for HOST gpu-10", 0),
        ("2 RESERVATIONs for HOST mia", 0),
        ("2 RESERVATIONs for USER gpu-1", 0),
        ("2 RESERVATIONs for USER miami", 0),
    ],
)
def test_c07_what_names_this_host_or_this_user_is_ours_and_settled(line: str, ours: int):
    assert part(line) == Claim(ours=ours)


def test_c07_a_group_is_ours_only_if_something_says_that_it_names_us():
    lines = "3 RESERVATIONs for GROUP ours", "2 RESERVATIONs for HOST_GROUP render farm"
    assert part(*lines) == Claim(unsettled=5, groups=("ours", "render farm"))
    assert part(*lines, table=replace(TABLE, reserved_for=("Render Farm",))) == Claim(ours=2)
    assert part(*lines, table=replace(TABLE, reserved_for=())) == Claim()


def test_c07_the_options_file_says_whom_a_group_names(tmp_path: Path):
    options = parse_options(OPTIONS)
    lines = [
        f"1 RESERVATION for {name}" for name in ("GROUP Ours", "HOST_GROUP farm", "HOST_GROUP desks", "GROUP theirs")
    ]
    assert part(*lines, options=options) == Claim(ours=2)
    assert part("4 RESERVATIONs for GROUP unheard", options=options) == Claim(unsettled=4, groups=("unheard",))
    # A group of hosts and one of users may have one name.
    assert part("1 RESERVATION for GROUP farm", options=options) == Claim(unsettled=1, groups=("farm",))
    file = tmp_path / "acme.opt"
    file.write_bytes(OPTIONS.replace("theirs", "ü").encode("latin-1"))
    assert query_options(str(file)).groups["group", "ü"] == ("ann", "bob")
    assert query_options("").failure is None


def test_seats_that_are_reserved_without_a_name_are_ours_as_far_as_a_key_or_the_options_file_says():
    nameless = Feature(name="aa", usage=Counted(total=5, used=5, reserved=4))
    assert claim(nameless, TABLE, HERE, Options()) == Claim(unsettled=4)
    assert claim(nameless, replace(TABLE, reserved_here=3), HERE, Options()) == Claim(ours=3)
    assert claim(nameless, replace(TABLE, reserved_here=9), HERE, Options()) == Claim(ours=4)
    assert claim(nameless, replace(TABLE, reserved_here=0), HERE, Options()) == Claim()
    assert claim(nameless, TABLE, HERE, parse_options(OPTIONS)) == Claim(ours=2, unsettled=2)
    # The file may be newer than the server's count.
    few = replace(nameless, usage=Counted(total=5, used=5, reserved=1))
    more = parse_options("RESERVE 1 aa user mia\nRESERVE 1 aa user ann\n")
    assert claim(few, TABLE, HERE, more) == Claim()


def judge(found: Feature, table: LicenseServer = TABLE, options: Options | None = None) -> Answer:
    files = {} if options is None else {table.options_file: options}
    return interpret_seats([(table, Reading(features=(found,)))], HERE, date(2026, 11, 2), files)


def test_a_finding_names_the_key_that_settles_it_and_warns_where_nothing_else_is_free():
    *_, named = judge(feature("9 RESERVATIONs for GROUP ours")).findings
    assert named.severity == "warning"
    assert named.problem == "9 of its seats are reserved for ours, and count as others'"
    assert "reserved_for" in named.remedy
    assert "options_file" in named.remedy
    *_, nameless = judge(Feature(name="aa", usage=Counted(total=5, used=2, reserved=2))).findings
    assert nameless.severity == "info"
    assert "reserved_here" in nameless.remedy
    assert [each.severity for each in judge(feature("9 RESERVATIONs for USER ann")).findings] == ["info"]


def test_the_seats_for_us_are_told_and_an_options_file_that_cannot_be_read_is_a_finding(tmp_path: Path):
    (told,) = judge(feature("2 RESERVATIONs for USER mia", "1 RESERVATION for USER ann")).findings
    assert told.problem == "the server has 9 seats, 9 in use, 3 of them reserved (2 for us)"
    table = replace(TABLE, options_file=str(tmp_path / "gone.opt"))
    *_, finding = judge(feature(), table, query_options(table.options_file)).findings
    assert finding.problem.endswith("gone.opt cannot be read: No such file or directory")
    assert finding.severity == "warning"


def test_no_beneficiary_shows_in_a_repr():
    shown = f"{feature('2 RESERVATIONs for USER zaphod')!r} {HERE!r} {parse_options('GROUP g zaphod')!r}"
    assert "zaphod" not in shown
    assert "mia" not in shown

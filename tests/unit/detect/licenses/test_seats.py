"""What answers of servers become: seats of the fleet or of this machine, remarks, and what is unknown."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from prefect_slots.detect.detector import Answer
from prefect_slots.detect.licenses.here import identities
from prefect_slots.detect.licenses.report import Counted, Feature, Reading, Unknown, Unlimited, Usage
from prefect_slots.detect.licenses.seats import interpret_seats
from prefect_slots.model.declaration import LicenseServer
from prefect_slots.model.finding import Finding
from prefect_slots.model.resource import Cell, Resource, Scope

TODAY = date(2026, 11, 2)
HERE = identities(["GPU-1.lab.example"], ["00:19:D2:AB:34:CD", "00:00:00:00:00:00"], ["mia"])
TABLE = LicenseServer(vendor="flexnet", server="27000@lic-a", features=(("ansys", "aa_r"),))
SEATS = Counted(total=12, used=8, reserved=3, queued=2)


def judge(usage: Usage, table: LicenseServer = TABLE, *locks: str) -> Answer:
    reading = Reading(features=(Feature(name="AA_R", usage=usage, locks=locks or None),))
    return interpret_seats([(table, reading)], HERE, TODAY)


def told(answer: Answer) -> list[tuple[str, str]]:
    return [(finding.severity, finding.problem) for finding in answer.findings]


def test_counted_seats_are_the_fleets_and_where_they_come_from_is_told():
    answer = judge(SEATS)
    assert answer.resources == (
        Resource(
            name="license.ansys",
            unit="seats",
            cells=(Cell(key="0", capacity=12),),
            scope=Scope.FLEET,
            origin="flexnet 27000@lic-a",
        ),
    )
    assert answer.unknown == set()
    assert told(answer) == [
        ("info", "the server has 12 seats, 8 in use, 3 of them reserved; 2 are queued for"),
        ("info", "3 of its seats are reserved, the server does not say for whom: they count as others'"),
    ]


def test_headroom_is_left_to_others():
    answer = judge(SEATS, replace(TABLE, headroom=2))
    assert answer.resources[0].capacity == 10
    assert told(answer)[0][1].endswith("; 2 kept free as headroom")


@pytest.mark.parametrize(
    ("total", "headroom", "problem"),
    [(2, 2, "headroom 2 leaves nothing of 2 seats"), (2, 3, "headroom 3 leaves nothing of 2 seats"),
     (0, 0, "the server has no seat of it")],
)  # fmt: skip
def test_where_nothing_is_left_that_is_an_error_and_known(total: int, headroom: int, problem: str):
    answer = judge(Counted(total=total, used=0), replace(TABLE, headroom=headroom))
    assert (answer.resources, answer.unknown) == ((), set())
    assert told(answer) == [("error", problem)]
    assert answer.findings[0].remedy


def test_of_what_is_not_counted_there_is_as_much_as_can_be_asked_for():
    answer = judge(Unlimited())
    assert [(each.name, each.capacity, each.scope) for each in answer.resources] == [
        ("license.ansys", 2**31 - 1, Scope.FLEET)
    ]
    assert answer.unknown == set()
    assert told(answer) == [("info", "the server does not count it, so nobody waits for it")]
    assert judge(Unlimited(), TABLE, "HOSTNAME=gpu-1").resources[0].scope is Scope.WORKER
    assert judge(Unlimited(), replace(TABLE, headroom=2, scope=Scope.WORKER)).resources[0].scope is Scope.WORKER


@pytest.mark.parametrize(
    ("reading", "problem"),
    [
        (Reading(failure="did not answer within 10 s"),
         "the licence server 27000@lic-a did not answer within 10 s"),
        (Reading(failure="no route to host"), "the licence server 27000@lic-a cannot be asked: no route to host"),
        (Reading(features=(Feature(name="AA_R", usage=Unknown(reason="no such feature")),)),
         "the licence server 27000@lic-a does not count it: no such feature"),
        (Reading(features=(Feature(name="aa_s", usage=SEATS),)),
         "the licence server 27000@lic-a tells of no 'aa_r'"),
        (Reading(), "the licence server 27000@lic-a tells of no 'aa_r'"),
    ],
)  # fmt: skip
def test_what_a_server_does_not_tell_is_unknown_and_never_zero(reading: Reading, problem: str):
    answer = interpret_seats([(TABLE, reading)], HERE, TODAY)
    assert (answer.resources, answer.unknown) == ((), {"license.ansys"})
    assert told(answer) == [("error", problem)]


def test_a_feature_that_is_spelled_wrongly_gets_the_nearest():
    answer = interpret_seats([(TABLE, Reading(features=(Feature(name="aa_s", usage=SEATS),)))], HERE, TODAY)
    assert answer.findings[0].remedy == "correct feature; did you mean aa_s?"


@pytest.mark.parametrize("lock", ["HOSTNAME=gpu-1", "hostname=GPU-1.other", "0019d2ab34cd", '"ID=1 00-19-d2-ab-34-cd"'])
def test_seats_that_are_locked_to_this_machine_are_its_own(lock: str):
    answer = judge(SEATS, TABLE, lock)
    assert [resource.scope for resource in answer.resources] == [Scope.WORKER]
    assert answer.findings[1].remedy == 'write scope = "worker"'
    assert len(judge(SEATS, replace(TABLE, scope=Scope.WORKER, reserved_here=0), lock).findings) == 1


def test_what_is_locked_is_read_alike_counted_or_not_and_a_lock_to_our_user_floats():
    for usage in (SEATS, Unlimited()):
        assert judge(usage, TABLE, "HOSTNAME=gpu-10").unknown == {"license.ansys"}
        assert judge(usage, TABLE, "USER=Mia").resources[0].scope is Scope.FLEET
        assert judge(usage, TABLE, "USER=mia", "HOSTNAME=gpu-1").resources[0].scope is Scope.WORKER
        assert judge(usage, TABLE, "USER=otto").unknown == {"license.ansys"}


def test_features_of_one_pool_are_one_resource_by_whatever_names():
    pool = [Feature(name=name, usage=SEATS, pool="group 1") for name in ("b", "a")]
    reading = Reading(features=(*pool, Feature(name="c", usage=SEATS)))
    one = replace(TABLE, features=(("y", "b"), ("x", "a"), ("w", "c")), command=("lmutil",))
    two = replace(one, features=(("v", "C"),))
    answer = interpret_seats([(one, reading), (two, reading), (replace(one, server="1@other"), reading)], HERE, TODAY)
    assert [(each.name, each.also) for each in answer.resources] == [
        ("license.x", ("license.y",)),
        ("license.v", ("license.w",)),
        ("license.x", ("license.y",)),
        ("license.w", ()),
    ]
    assert ("info", "it draws on the same seats as license.x, and is counted there") in told(answer)


def test_seats_that_float_or_tell_nothing_of_locks_are_the_fleets():
    for locks in ((), None):
        reading = Reading(features=(Feature(name="aa_r", usage=SEATS, locks=locks),))
        answer = interpret_seats([(TABLE, reading)], HERE, TODAY)
        assert [resource.scope for resource in answer.resources] == [Scope.FLEET]


@pytest.mark.parametrize(
    "locks", [("HOSTNAME=gpu-10",), ("HOSTNAME=gpu1",), ("000000000000",), ("gpu-1", "gpu-2"), ("",)]
)
def test_seats_that_are_locked_to_others_are_unknown_until_a_person_says_whose_they_are(locks: tuple[str, ...]):
    answer = judge(SEATS, TABLE, *locks)
    assert (answer.resources, answer.unknown) == ((), {"license.ansys"})
    assert told(answer) == [("warning", "its licences are locked, and not all to this machine")]
    said = judge(SEATS, replace(TABLE, scope=Scope.WORKER), *locks)
    assert [resource.scope for resource in said.resources] == [Scope.WORKER]


@pytest.mark.parametrize("usage", [SEATS, Unlimited()])
@pytest.mark.parametrize(
    ("day", "warnings"),
    [
        (date(2026, 11, 17), []),
        (date(2026, 11, 16), ["a licence of it ends on 2026-11-16, in 14 days"]),
        (date(2026, 11, 2), ["a licence of it ends on 2026-11-02, in 0 days"]),
        (date(2026, 11, 1), ["a licence of it ended on 2026-11-01"]),
        (None, []),
    ],
)
def test_a_licence_that_ends_soon_is_warned_of(usage: Counted | Unlimited, day: date | None, warnings: list[str]):
    answer = judge(replace(usage, expires=day))
    assert [finding.problem for finding in answer.findings if finding.severity == "warning"] == warnings


def test_two_tables_of_one_server_share_its_findings_and_keep_their_own_seats():
    odd = Finding(subject="27000@lic-a", problem="odd")
    reading = Reading(features=(Feature(name="aa_r", usage=SEATS), Feature(name="bb", usage=SEATS)), findings=(odd,))
    other = LicenseServer(vendor="flexnet", server="27000@lic-a", features=(("b", "bb"), ("c", "cc")))
    answer = interpret_seats([(TABLE, reading), (other, reading)], HERE, TODAY)
    assert [resource.name for resource in answer.resources] == ["license.ansys", "license.b"]
    assert answer.unknown == {"license.c"}
    assert answer.findings.count(odd) == 1


def test_more_seats_than_a_limit_can_count_are_as_many_as_it_can():
    assert judge(Counted(total=2**40, used=0)).resources[0].capacity == 2**31 - 1

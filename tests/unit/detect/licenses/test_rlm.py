"""`rlmstat` as servers print it: each oddity once."""

from __future__ import annotations

from datetime import date

from prefect_slots.detect.licenses.report import Counted, Reading, Unknown, Unlimited
from prefect_slots.detect.licenses.rlm import parse_rlm

BUSY = """\
Setting license file path to 5053@lic-a
rlmutil v15.1
Copyright (C) 2006-2024, Reprise Software, Inc. All rights reserved.


\trlm status on lic-a (port 5053), up 4d 02:11:40
\trlm software version v15.1 (build:3)
\trlm comm version: v1.2
\tStartup time: Tue Oct 13 08:12:31 2026
\tTodays Statistics (07:15:02), init time: Mon Nov  2 00:00:06 2026
\tRecent Statistics (00:12:09), init time: Mon Nov  2 07:02:53 2026

\t             Recent Stats         Todays Stats         Total Stats
\t              00:12:09             07:15:02         4d 02:11:40
\tMessages:    41 (0/sec)           1210 (0/sec)          88105 (0/sec)
\tConnections: 32 (0/sec)           905 (0/sec)          61400 (0/sec)

\t--------- ISV servers ----------
\t   Name           Port Running Restarts
\tflowsoft         49821   Yes      0

\t------------------------

\tflowsoft ISV server status on lic-a (port 49821), up 4d 02:11:33
\tflowsoft software version v15.1 (build: 3)
\tflowsoft comm version: v1.2
\tflowsoft Debug log filename: /var/log/flow.dlog
\tCheckouts:   0 (0/sec)           0 (0/sec)          87 (0/sec)

\tflowsoft license pool status on lic-a (port 49821)

\tflow_super v4.1
\t\tcount: 20, # reservations: 2, inuse: 7, exp: 31-jan-2027
\t\tobsolete: 0, min_remove: 120, total checkouts: 31
\tflow_super v4.1, pool: 2
\t\tcount: 5, # reservations: 0, inuse: 0, exp: permanent
\t\tobsolete: 0, min_remove: 120, total checkouts: 0
\tflow_gui v4.1
\t\tToken-based license
\tflow_view v4.1
\t\tcount: uncounted, # reservations: 0, inuse: 0, exp: permanent

\tflowsoft license usage status on lic-a (port 49821)

\tflow_super v4.1: mia@ws-07.lab 4/0 at 11/01 09:01  (handle: 2b1)
\tflow_super v4.1: mia@ws-07.lab 4/0 at 11/01 09:01  (handle: 2b1)
\tflow_super v4.1: otto@ws-09 3/0 at 11/01 23:59  (handle: 9e)
"""


def parse(text: str) -> Reading:
    return parse_rlm(text, server="5053@lic-a", checkouts=True)


def test_a_busy_server_is_understood_to_the_last_line_and_its_pools_are_summed():
    reading = parse(BUSY)
    assert (reading.findings, reading.failure) == ((), None)
    assert {feature.name: feature.usage for feature in reading.features} == {
        "flow_super": Counted(total=25, used=9, reserved=2, expires=date(2027, 1, 31)),
        "flow_gui": Unknown(
            reason="it is drawn from the tokens of another product; ask for that product's tokens instead"
        ),
        "flow_view": Unlimited(),
    }
    checkouts = reading.features[0].checkouts
    assert checkouts is not None
    assert [(checkout.count, checkout.belongs_to("otto", "ws-09")) for checkout in checkouts] == [
        (4, False),
        (4, False),
        (3, True),
    ]


def test_reservations_take_no_more_than_there_is_and_what_is_used_beyond_stays_told():
    text = "aa v1\n count: 5, # reservations: 4, inuse: 3, exp: permanent\n"
    assert parse(text).features[0].usage == Counted(total=5, used=5, reserved=4)
    over = text.replace("inuse: 3", "inuse: 9")
    assert parse(over).features[0].usage == Counted(total=5, used=9, reserved=4)


def test_a_pool_whose_count_does_not_follow_is_unknown_and_told():
    reading = parse("aa v1\nbb v2\n count: 5, # reservations: 0, inuse: 3, exp: soon\ncc v3\n")
    assert [feature.usage for feature in reading.features] == [
        Unknown(reason="its count was not told"),
        Counted(total=5, used=3),
        Unknown(reason="its count was not told"),
    ]
    assert [finding.problem[:43] for finding in reading.findings] == ["3 lines of its output were not understood: "]


def test_a_server_that_is_away_says_so_and_then_that_nothing_was_wrong():
    text = 'rlmutil v15.1\n\nError connecting to "rlm" server\n\n'
    text += 'Connection attempted to host: "" on port 5053\n\nNo error\n'
    assert parse(text) == Reading(failure='Error connecting to "rlm" server')


POOLS = """\
\tacme license pool status on lic1 (port 49679)

\trender v2024.0701, pool: 1
\t\tcount: 16, # reservations: 0, inuse: 3, exp: permanent
\trender v2023.0401, pool: 2
\t\tcount: 4, # reservations: 0, inuse: 0, exp: 1-apr-2023
\tcomp v2024.0701, pool: 1
\t\tcount: 16, # reservations: 0, inuse: 3, exp: permanent
\tother v1.0, pool: 1
\t\tcount: 9, # reservations: 0, inuse: 0, exp: permanent
\tlocked v1.0, pool: 7
\t\tcount: 2, # reservations: 0, inuse: 0, exp: permanent, hostid: 0019d2ab34cd

\tacme license usage status on lic1 (port 49679)

\tcomp v2024.0701: mia@ws-07.lab 3/0 at 11/01 09:01  (handle: 2b1)
"""


def test_a_pool_that_several_products_list_is_one_and_all_its_holders_are_theirs():
    render, comp, other, locked = parse(
        POOLS.replace("render v2023.0401, pool: 2", "render v2023.0401, pool: 3")
    ).features
    assert (render.usage, comp.usage) == (
        Counted(total=20, used=3, expires=date(2023, 4, 1)),
        Counted(total=16, used=3),
    )
    assert [holder.count for holder in render.checkouts or ()] == [3]
    assert (other.usage, other.checkouts) == (Counted(total=9, used=0), ())
    assert (locked.locks, comp.locks) == (("0019d2ab34cd",), None)
    twice = parse(POOLS.replace("comp v", "render v")).features[0]
    assert twice.usage == Counted(total=20, used=3, expires=date(2023, 4, 1))


def test_a_lock_on_a_line_of_its_own_is_the_pools():
    text = "a v1\n count: 2, # reservations: 0, inuse: 0, exp: permanent\n obsolete: 0, min_remove: 1, hostid: {}\n"
    readings = [parse(text.format(lock)) for lock in ("user=mia", "ANY")]
    assert [(each.features[0].locks, each.findings) for each in readings] == [(("user=mia",), ()), ((), ())]


def test_a_pool_that_has_ended_is_not_counted():
    reading = parse(POOLS)
    assert reading.on(date(2023, 4, 1)).features[0].usage == Counted(total=20, used=3, expires=date(2023, 4, 1))
    assert reading.on(date(2023, 4, 2)).features[0].usage == Counted(total=16, used=3)
    ended = parse("a v1\n count: 2, # reservations: 0, inuse: 1, exp: 1-apr-2023\n").on(date(2024, 1, 1))
    assert ended.features[0].usage == Counted(total=0, used=0, expires=date(2023, 4, 1))

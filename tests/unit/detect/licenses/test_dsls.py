"""`DSLicSrv` as servers print it: each oddity once."""

from __future__ import annotations

from datetime import date

from prefect_slots.detect.licenses.dsls import parse_dsls
from prefect_slots.detect.licenses.report import Checkout, Counted, Reading

BUSY = """\
================================================================================
admin >         Software version: 6.425.3
        Build number: 7
        Server name: lic-a
        Ready
admin >Editor,EditorId,Feature,Model,Commercial Type,Max Release Number,Max Release Date,Pricing Structure,\
Max Casual Duration,Expiration Date,Customer ID,Count,Inuse,Tokens,Casual Usage,Host,User,Internal ID,Active Process,\
Client Code Version,Session ID,Granted Since,Last Used At,Granted At,Queue Position
"Tools, SE",5E75,SRU,Token,STD,6,4/4/26 11:00:00 PM,ALC,0,10/31/27 10:59:00 PM,DSI1,8000,170,130,,\
ws-07 (41d-7)/10.0.0.7,mia,id,p,6,s,t,t,t,
"Tools, SE",5E75,SRU,Token,STD,6,4/4/26 11:00:00 PM,ALC,0,10/31/27 10:59:00 PM,DSI1,8000,170,40,,\
ws-09,otto,id,p,6,s,t,t,t,
"Tools, SE",5E75,SRU,Token,STD,6,4/4/26 11:00:00 PM,ALC,0,10/31/26 10:59:00 PM,DSI2,500,0
"Tools, SE",5E75,GUI,ConcurrentUser,STD,6,4/4/26 11:00:00 PM,YLC,0,10/31/27 10:59:00 PM,DSI1,1,1,,,\
ws-01,ada,id,p,6,s,t,t,t,
"Tools, SE",5E75,GUI,ConcurrentUser,STD,6,4/4/26 11:00:00 PM,YLC,0,10/31/27 10:59:00 PM,DSI1,1,1,,,\
ws-02,lea,id,p,6,s,,,,1
admin >
"""


def parse(text: str) -> Reading:
    return parse_dsls(text, server="4085@lic-a", checkouts=True)


def test_sessions_of_one_licence_repeat_its_seats_and_licences_of_one_feature_add_theirs():
    reading = parse(BUSY)
    assert (reading.findings, reading.failure) == ((), None)
    sru, gui = reading.features
    assert (sru.name, sru.usage) == ("SRU", Counted(total=8500, used=170, expires=date(2026, 10, 31)))
    assert sru.checkouts == (
        Checkout(user="mia", host="ws-07", count=130),
        Checkout(user="otto", host="ws-09", count=40),
    )
    assert (gui.name, gui.usage) == ("GUI", Counted(total=1, used=1, queued=1, expires=date(2027, 10, 31)))
    assert gui.checkouts == (Checkout(user="ada", host="ws-01"),)


def test_a_row_that_is_no_row_is_told_and_loses_no_other():
    reading = parse(BUSY.replace("DSI2,500,0", "DSI2,many,0"))
    assert reading.features[0].usage == Counted(total=8000, used=170, expires=date(2027, 10, 31))
    assert [finding.problem[:6] for finding in reading.findings] == ["a line"]


def test_a_licence_of_a_named_user_is_set_aside_for_that_user():
    reading = parse(
        BUSY.replace("GUI,ConcurrentUser", "GUI,NamedUser").replace("lea,id,p,6,s,,,,1", "lea,id,p,6,s,t,t,t,")
    )
    gui = reading.features[1]
    assert gui.usage == Counted(total=1, used=1, reserved=2, expires=date(2027, 10, 31))
    assert [(each.kind, each.name) for each in gui.reservations] == [("USER", "ada"), ("USER", "lea")]
    assert gui.checkouts == ()


def test_a_server_that_is_away_is_a_failure():
    reading = parse("admin >connect lic-a 4085\nadmin >Connection refused: server not reachable\nadmin >\n")
    assert reading == Reading(failure="Connection refused: server not reachable")

"""Lines that healthy servers print, vendor by vendor: each is understood, and none warns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import pytest

from prefect_slots.detect.licenses.report import Counted, Reading, Unlimited, Usage
from prefect_slots.detect.licenses.vendors import VENDORS

COLUMNS = (
    "Editor,EditorId,Feature,Model,Commercial Type,Max Release Number,Max Release Date,Pricing Structure,"
    "Max Casual Duration,Expiration Date,Customer ID,Count,Inuse,Tokens,Casual Usage (mn),Host,User,Internal ID,"
    "Active Process,Client Code Version,Session ID,Granted Since,Last Used At,Granted At,Queue Position,"
)


@dataclass(frozen=True)
class Output:
    """A program's output, and the usage of one feature in it."""

    vendor: str
    feature: str
    usage: Usage
    text: str

    def read(self) -> Reading:
        return VENDORS[self.vendor].parse(self.text, server="1@lic", checkouts=True)


HEALTHY = {
    "C23 the banner of DSLS": Output(
        "dsls",
        "QXT",
        Counted(total=40, used=12, expires=date(2031, 1, 1)),
        "License Administration Tool Version 6.424.0 Built on Jan 1, 2023, 1:00:00 PM.\n"
        "admin >\tSoftware version: 6.424.0\n\tBuild date: Jan 1, 2023, 1:00:00 PM\n\tStandalone mode\n\tReady: yes\n"
        "\tServer name: lic-a\tServer id: AAA-1234567890ABCDEF\n"
        "Warning: restricted connection, some operations are not permitted.\n"
        f"admin >{COLUMNS}\n"
        "Acme SE,1A,QXT,Token,STD,8,2031-01-01 00:59:00,YLC,0,2031-01-01 00:59:00,1,40,12,12,,"
        "node1 (263.0)/10.0.0.9,ann,QXT,,,,2030-12-09 03:02:19,2030-12-10 02:21:33,,\n"
        "admin >\n",
    ),
    "DSLS in a group of servers": Output(
        "dsls",
        "QXT",
        Counted(total=3, used=0, expires=date(2031, 1, 1)),
        "admin >\tSoftware version: 6.425.1\n\tFailover mode\n\tReady: yes\n\tServer id: A-1 B-2 C-3\n"
        f"admin >{COLUMNS}\nAcme SE,1A,QXT,Token,STD,8,1/1/31,YLC,0,1/1/31,1,3,0,\nadmin >admin >\n",
    ),
    "C24 FlexNet's lingering seats after two blanks": Output(
        "flexnet",
        "cad",
        Counted(total=5, used=3),
        "Users of cad:  (Total of 5 licenses issued;  Total of 3 licenses in use)\n\n"
        '  "cad" v1.00, vendor: acme\n  floating license\n\n'
        "    u1 pc1 pc1:0.0 (v1.00) (lic1/28000 1401), start Wed 5/23 5:59  (linger: 885098 / 1340160)\n"
        "    u2 pc2 pc2:0.0 (v1.00) (lic1/28000 1402), start Wed 5/23 5:59, 2 licenses  (linger: 885098 / 1340160)\n",
    ),
    "FlexNet without handles, with a port's name": Output(
        "flexnet",
        "cfd",
        Counted(total=3, used=2, expires=None),
        "lmstat v11.19.6.0 build 290818 x64_lsb (lmstat)\n"
        "Users of cfd:  (Total of 3 licenses issued;  Total of 2 licenses in use)\n\n"
        '  "cfd" v6.4, vendor: ACMED, expiry: permanent(no expiration date)\n  vendor_string: [x]\n'
        "  floating license\n\n"
        "    ann ws-1 WS-1 (v6.4) (lic.lab/flex), start Sun 8/2/2026 17:54, PID: 18304 \n"
        "    bob ws-2 /dev/pts/0 (v5.6) (lic.lab/flex 1090), start Tue 4/22 11:07\n",
    ),
    "FlexNet's lock to nothing": Output(
        "flexnet",
        "SERIAL",
        Unlimited(),
        "Users of SERIAL:  (Uncounted, node-locked)\n\n"
        '  "SERIAL" v6.4, vendor: ACMED, expiry: permanent(no expiration date)\n'
        "  uncounted nodelocked license locked to NOTHING (hostid=ANY)\n\n"
        "    ann ws-1 WS-1 (v6.4) (lic.lab/27000), start Sun 8/2 17:54, PID: 18304 \n",
    ),
    "RLM's uncounted pools, locks and information log": Output(
        "rlm",
        "comp",
        Unlimited(),
        "\tacme info log filename: C:\\ProgramData\\acme.dlog\n\tacme license pool status on lic1 (port 49679)\n"
        "\tcomp v2024.0701, pool: 3\n\t\tUNCOUNTED\n\t\tobsolete: 0, min_remove: 120, total checkouts: 3\n"
        "\thosted v1.0, pool: 4\n\t\tcount: 2, # reservations: 0, inuse: 0, exp: permanent, hostid: ANY\n"
        "\t\tobsolete: 0, min_remove: 120, total checkouts: 3\n",
    ),
    "LM-X with all that stands below a feature": Output(
        "lmx",
        "Mesher",
        Counted(total=5, used=1, expires=date(2031, 1, 31)),
        "LM-X End-user Utility v5.1\nLM-X License Server on 6200@lic-a:\n"
        "Feature: Mesher Version: 21.0 Vendor: TOOLS INC\nStart date: 2026-02-17 Expire date: 2031-01-31\n"
        "Key type: EXCLUSIVE License sharing: HOST USER\nKey comment: bought in May\n\n1 of 5 license(s) used:\n\n"
        "1 license(s) used by mia@ws-07 [10.0.0.7]\n"
        "    Login time: 2026-11-02 09:26   Checkout time: 2026-11-02 09:29\n"
        "    Shared on hostname: ws-07\n    Project: wing\n    Client comment: night run\n",
    ),
    "LS-DYNA's dash for a queue": Output(
        "lsdyna",
        "MPPDYNA",
        Counted(total=2420, used=2360, expires=date(2031, 6, 30)),
        "MPPDYNA          06/30/2031          -     60   2420 |     -\n",
    ),
    "OLicense with further lines": Output(
        "olicense",
        "tyres",
        Counted(total=4, used=0, expires=date(2031, 12, 31)),
        "Application:\ttyres\nComment:\nHardware-ID:\t12-34\nModules:\n"
        "  tyres;         \tFreeFloating;\t4;\t2031-12-31 23:59:59;\n",
    ),
    "Sentinel's queue, of which nobody holds a seat": Output(
        "sentinel",
        "SOLVER",
        Counted(total=10, used=1, queued=2),
        "  Sentinel RMS 8.5.1 Application Monitor\n |- Feature Information\n"
        '   |- Feature name                   : "SOLVER"\n'
        "   |- Maximum concurrent user(s)     : 10\n   |- Unreserved tokens in use       : 1\n"
        "   |- Unreserved tokens in queue     : 2\n   |- License has no expiration date.\n"
        "   |- Client Information\n     |- User name                      : mia\n"
        "   |- Queued Client Information:\n     |- User name                      : zoe\n"
        "     |- No of tokens requested         : 2\n",
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_no_line_of_a_healthy_server_warns(name: str):
    output = HEALTHY[name]
    reading = output.read()
    assert (reading.findings, reading.failure) == ((), None)
    feature = reading.find(output.feature)
    assert feature is not None
    assert feature.usage == output.usage


def test_lingering_seats_are_told_with_their_seconds():
    feature = HEALTHY["C24 FlexNet's lingering seats after two blanks"].read().find("cad")
    assert feature is not None
    assert [(each.count, each.lingering) for each in feature.checkouts or ()] == [(1, 1340160), (2, 1340160)]


def test_a_queue_of_sentinel_holds_no_seat():
    feature = HEALTHY["Sentinel's queue, of which nobody holds a seat"].read().find("SOLVER")
    assert feature is not None
    assert [each.user for each in feature.checkouts or ()] == ["mia"]

"""What a licence server tells, written into a ledger: what outsiders use is not free, unknown keeps the last number."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.license_tools import Tool
from tests.support.processes import member

from prefect_slots.detect.licenses.client import Desk
from prefect_slots.detect.licenses.report import Checkout, Counted, Feature, Reading, Reservation
from prefect_slots.ledger import registry, usage
from prefect_slots.ledger.store import Ledger
from prefect_slots.ledger.transaction import TicketState
from prefect_slots.model.book import Asked, CellId, Shape, Ticket
from prefect_slots.model.declaration import LicenseServer
from prefect_slots.model.finding import Stale
from prefect_slots.model.request import Request
from prefect_slots.model.requirement import declare
from prefect_slots.model.resource import Cell, Inventory, Resource, Scope
from prefect_slots.system.processes import Users
from prefect_slots.usage.foreign import Fleet
from prefect_slots.usage.licenses import ask_servers, note_seats

NAME, CELL = "license.aa", CellId("license.aa", 0)
TABLE = LicenseServer(vendor="flexnet", server="1@lic", features=(("aa", "aa"),), grace_seconds=0)
ME = Checkout(user=getpass.getuser(), host=socket.gethostname())
ENGINEER = Checkout(user="annabelle.engineer", host="desktop-of-hers")
ELSEWHERE = Checkout(user="service-account", host="gpu-machine-2")
HOSTS = frozenset({"gpu-machine-2"})


class Seats:
    """A ledger with a floating licence of ten seats."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._users = ledger, Users()
        cells = (Cell(key="0", capacity=10),)
        aa = Resource(name=NAME, unit="seats", cells=cells, scope=Scope.FLEET, origin="flexnet")
        ledger.transact(lambda tx: registry.register(tx, Inventory(resources=(aa,))))

    def ask(self, ticket: str, seats: int) -> TicketState:
        shape = Shape(requirement=declare(license={"aa": seats}), priority=0)
        request = Request(label=ticket)
        self._ledger.transact(
            lambda tx: tx.apply(Asked(shape=shape, ticket=Ticket(id=ticket, seq=tx.next_seq())), request)
        )
        return self.state(ticket)

    def state(self, ticket: str) -> TicketState:
        return self._ledger.read(lambda tx: tx.state(ticket))

    def told(self, *checkouts: Checkout, counted: int = 0, hosts: frozenset[str] | None = HOSTS) -> tuple[Stale, ...]:
        usage = Counted(total=10, used=len(checkouts))
        return self.note(Feature(name="aa", usage=usage, checkouts=checkouts), counted=counted, hosts=hosts)

    def note(
        self, feature: Feature | None, *, counted: int = 0, hosts: frozenset[str] | None = HOSTS, asked_at: float = 0.0
    ) -> tuple[Stale, ...]:
        why = "" if feature is not None else "hangs"
        reading = Reading(features=() if feature is None else (feature,), failure=why or None)
        (told,) = ask_servers((TABLE,), {}, Desk(query=lambda *_: reading))
        told = replace(told, asked_at=asked_at or time.time())
        fleet = Fleet(counted={NAME: counted}, hosts=hosts)
        return self._ledger.transact(lambda tx: note_seats((told,), tx, fleet, self._users, 2)).stale

    @property
    def foreign(self) -> int:
        (cell,) = self._ledger.read(lambda tx: tx.book()).cells
        return cell.foreign

    @property
    def seen(self) -> usage.Outside:
        return self._ledger.read(usage.read_outside)[CELL]


@pytest.fixture
def seats(tmp_path: Path) -> Iterator[Seats]:
    with member(tmp_path) as (ledger, _):
        yield Seats(ledger)


def test_seats_of_people_outside_are_not_free_and_who_waits_is_granted_when_they_are_given_back(seats: Seats):
    seats.told(*[ENGINEER] * 4)
    assert seats.foreign == 4
    assert (seats.ask("six", 6), seats.ask("two", 2)) == (TicketState.HELD, TicketState.WAITING)
    seats.told(*[ENGINEER] * 2, *[ME] * 6)
    assert (seats.foreign, seats.state("two")) == (2, TicketState.HELD)


def test_ours_are_not_counted_twice(seats: Seats):
    assert seats.ask("six", 6) is TicketState.HELD
    seats.told(*[ME] * 6, ENGINEER)
    assert seats.foreign == 1
    seats.told(*[ME] * 8, ENGINEER)
    assert seats.foreign == 3, "somebody here uses two seats without asking for them"


def test_other_machines_seats_count_once_beside_outsiders(seats: Seats):
    seats.told(ENGINEER, *[ELSEWHERE] * 3, counted=3)
    seats.told(ENGINEER, *[ELSEWHERE] * 3, counted=3)
    assert seats.foreign == 1 + 3


def test_a_seat_that_another_machine_has_taken_and_not_checked_out_yet_is_taken(seats: Seats):
    for _ in range(2):
        seats.told(ENGINEER, counted=3)
        assert seats.foreign == 1 + 3


def test_where_hosts_are_not_told_what_other_machines_hold_explains_what_is_shown(seats: Seats):
    usage = Counted(total=10, used=4)
    for _ in range(2):
        seats.note(Feature(name="aa", usage=usage), counted=3)
    assert seats.foreign == 4
    for _ in range(2):
        seats.told(ENGINEER, *[ELSEWHERE] * 3, counted=3, hosts=None)
    assert seats.foreign == 4


def test_where_nobody_outside_uses_a_seat_the_server_alone_judges_what_other_machines_leave(seats: Seats):
    for _ in range(2):
        seats.told(*[ELSEWHERE] * 3, counted=3)
    assert seats.foreign == 0
    assert seats.ask("ten", 10) is TicketState.HELD


def test_a_server_that_does_not_answer_leaves_the_last_number_with_its_age_and_says_so_once(seats: Seats):
    seats.told(*[ENGINEER] * 4)
    seen_at = seats.seen.seen_at
    assert seen_at is not None
    alarms = [seats.note(None, asked_at=seen_at + miss) for miss in (1, 1, 2, 2, 3)]
    assert [len(alarm) for alarm in alarms] == [0, 0, 1, 0, 0], "asked three times"
    (stale,) = alarms[2]
    assert (stale.resource, stale.seen_at, stale.misses, stale.why) == (NAME, seen_at, 2, "hangs")
    assert (seats.foreign, seats.seen.used, seats.seen.seen_at, seats.seen.misses) == (4, 4, seen_at, 3)
    seats.told(ENGINEER)
    assert (seats.foreign, seats.seen.misses, seats.seen.why) == (1, 0, "")


def test_c07_seats_for_a_user_serve_nobody_else_who_shares_the_ledger(seats: Seats, tmp_path: Path):
    usage = Counted(total=10, used=6, reserved=6)
    ours = Reservation(kind="USER", name=ME.user, count=4), Reservation(kind="HOST", name=ME.host, count=2)
    feature = Feature(name="aa", usage=usage, checkouts=(), reservations=ours)
    seats.note(feature)
    assert seats.foreign == 0
    tmp_path.chmod(0o2770)
    seats.note(feature)
    assert seats.foreign == 4


def test_seats_that_the_server_has_no_more_are_not_free(seats: Seats):
    seats.note(Feature(name="aa", usage=Counted(total=4, used=1), checkouts=(ENGINEER,)))
    assert (seats.foreign, seats.ask("four", 4), seats.ask("three", 3)) == (7, TicketState.WAITING, TicketState.HELD)
    seats.note(Feature(name="aa", usage=Counted(total=12, used=0), checkouts=()))
    assert seats.foreign == 0
    seats.note(Feature(name="aa", usage=Counted(total=0, used=0), checkouts=()))
    assert seats.foreign == 10


def test_more_than_there_is_blocks_all_of_it(seats: Seats):
    seats.told(*[ENGINEER] * 12)
    assert seats.ask("one", 1) is TicketState.WAITING
    assert seats.foreign == 10
    seats.note(Feature(name="aa", usage=Counted(total=10, used=10**30)))
    assert seats.foreign == 10


def test_a_servers_words_reach_no_terminal_raw(tmp_path: Path):
    tool = Tool(tmp_path / "tool", text="Error getting status: \x1b[31mNo such feature exists.\n\x1b]0;aa\x07\n")
    (told,) = ask_servers((replace(TABLE, command=tool.command),), dict(os.environ), Desk())
    assert told.feature is None
    assert told.why
    assert told.why.isprintable()


def test_no_name_is_written(seats: Seats, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    seats.ask("one", 1)
    seats.told(ENGINEER, ELSEWHERE, counted=1)
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert b"license.aa" in files
    assert not any(name in files for name in (b"annabelle", b"service-account", b"desktop-of", b"gpu-machine-2"))
    assert not any(name in caplog.text for name in ("annabelle", "service-account", "desktop-of", "gpu-machine-2"))

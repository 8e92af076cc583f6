"""Inside a transaction: tickets and grants that end in any state, draws, owners that die."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from tests.support.polling import until
from tests.support.processes import member
from tests.unit.ledger.members import INVENTORY, Member, Pair

from prefect_slots.ledger import registry
from prefect_slots.ledger.owner import Owner
from prefect_slots.ledger.store import Ledger
from prefect_slots.ledger.transaction import TicketState
from prefect_slots.model.book import Asked, Returned, Shape, Ticket
from prefect_slots.model.request import Request
from prefect_slots.model.requirement import declare
from prefect_slots.scheduling.decide import decide

WAITING, BLOCKED, HELD = TicketState.WAITING, TicketState.BLOCKED, TicketState.HELD
REFUSED, GONE = TicketState.REFUSED, TicketState.GONE
EMPTY = {"ticket": 0, "shape": 0, "held": 0, "holding": 0, "refusal": 0, "lease": 0}


def left_behind(one: Member) -> dict[str, int]:
    return {table: one.count(table) for table in EMPTY}


def block(one: Member, grant: str) -> None:
    one.ledger.transact(lambda tx: tx.apply(Returned(grant=grant, blocked_on="license:matlab")))


def resume(one: Member, ticket: str) -> None:
    one.ledger.transact(lambda tx: tx.resume(ticket))


def test_arrival_numbers_never_repeat(members: Pair) -> None:
    numbers = [each.ledger.transact(lambda tx: tx.next_seq()) for each in members * 3]
    assert numbers == sorted(set(numbers))


def test_a_ticket_goes_from_waiting_to_held_to_gone(members: Pair) -> None:
    one, other = members
    first, second = one.ask(matlab=2), other.ask(matlab=1)
    assert (one.state(first), one.state(second)) == (HELD, WAITING)
    one.leave(first)
    assert (one.state(first), other.state(second)) == (GONE, HELD)
    other.leave(second)
    assert left_behind(one) == EMPTY


@pytest.mark.parametrize("standing", [WAITING, BLOCKED, HELD, REFUSED, GONE])
def test_leaving_ends_a_ticket_in_any_state_and_twice_is_once(members: Pair, standing: TicketState) -> None:
    one, other = members
    parent = one.ask(matlab=2)
    match standing:
        case TicketState.WAITING:
            ticket = other.ask(matlab=1)
        case TicketState.BLOCKED:
            one.leave(parent)
            ticket = other.ask(matlab=1)
            block(other, ticket)
        case TicketState.HELD:
            ticket = parent
        case TicketState.REFUSED:
            drawn = other.draw(parent, matlab=2)
            ticket = other.draw(parent, matlab=1)
            one.leave(parent)
            assert one.state(parent) is HELD, "closed, while what was drawn on it goes on"
            other.leave(drawn)
        case TicketState.GONE:
            ticket = "never-was"
    assert other.state(ticket) is standing
    for _ in range(2):
        other.leave(ticket)
        assert other.state(ticket) is GONE
    one.leave(parent)
    assert left_behind(one) == EMPTY


def test_a_blocked_ticket_is_passed_over_until_it_is_resumed_at_its_old_place(members: Pair) -> None:
    one, other = members
    first = one.ask(matlab=2)
    block(one, first)
    passes = other.ask(matlab=2)
    third = other.ask(matlab=2)
    assert [one.state(t) for t in (first, passes, third)] == [BLOCKED, HELD, WAITING]
    resume(one, first)
    assert one.state(first) is WAITING
    other.leave(passes)
    assert [one.state(t) for t in (first, third)] == [HELD, WAITING]


def test_resuming_what_is_not_blocked_changes_nothing(members: Pair) -> None:
    one, other = members
    held, waits = one.ask(matlab=1), other.ask(matlab=2)
    one.ask(matlab=1)
    before = one.ledger.read(lambda tx: tx.book())
    assert before.lines[0].overtakes == 1
    for ticket in (held, waits, "never-was"):
        resume(one, ticket)
    assert one.ledger.read(lambda tx: tx.book()) == before


def test_a_blocked_ticket_keeps_count_of_who_overtook_it(members: Pair) -> None:
    one, other = members
    seats = one.ask(matlab=1)
    wide = one.ask(matlab=2)
    passes = other.ask(matlab=1)
    assert [one.state(t) for t in (seats, wide, passes)] == [HELD, WAITING, HELD]
    one.leave(seats)
    other.leave(passes)
    block(one, wide)
    assert one.ledger.read(lambda tx: tx.one("SELECT overtaken FROM ticket WHERE id=?", wide)) == (1,)
    resume(one, wide)
    assert one.ledger.read(lambda tx: tx.grant(wide)).overtaken == 1


def test_a_refused_draw_is_told_to_its_own_process_and_to_others(members: Pair) -> None:
    one, other = members
    told: list[str] = []
    parent = one.ask(matlab=2)
    one.draw(parent, matlab=2)
    mine, theirs = one.draw(parent, matlab=1), other.draw(parent, matlab=1)
    one.ledger.on_settled = told.extend
    wakes = one.ledger.transact(lambda tx: (tx.leave(parent), tx.wakes)[1])
    assert told == [mine]
    assert [ticket for _, ticket in wakes] == [theirs]
    assert {one.state(mine), one.state(theirs)} == {REFUSED}


def test_a_draw_on_what_has_ended_is_refused_at_once(members: Pair) -> None:
    one, other = members
    parent = one.ask(matlab=2)
    drawn = other.draw(parent, matlab=1)
    one.leave(parent)
    late = other.draw(parent, matlab=1)
    assert other.state(late) is REFUSED
    other.leave(drawn)
    assert one.state(parent) is GONE


def test_a_new_ticket_needs_its_request(members: Pair) -> None:
    one, _ = members
    shape = Shape(requirement=declare(license="matlab"))
    with pytest.raises(ValueError, match="its request is not given"):
        one.ledger.transact(lambda tx: tx.apply(Asked(shape=shape, ticket=Ticket(id="t", seq=tx.next_seq()))))
    assert left_behind(one) == EMPTY


# Owners that die


def test_a_grant_to_the_dead_goes_to_the_next_alive(state: Path, members: Pair) -> None:
    one, other = members
    held, first, second = one.ask(matlab=2), other.ask(matlab=2), one.ask(matlab=2)
    other.die()
    one.leave(held)
    assert (one.state(first), one.state(second)) == (GONE, HELD)


def test_all_of_a_dead_owner_is_cleared_up(state: Path, members: Pair) -> None:
    one, other = members
    held = other.ask(matlab=1)
    drawn = other.draw(held, matlab=1)
    other.draw(held, matlab=1)
    other.ask(matlab=2)
    block(other, other.ask(matlab=1))
    waits = one.ask(matlab=2)
    assert one.ledger.read(lambda tx: tx.dead_owners()) == []
    other.die()
    assert one.ledger.read(lambda tx: tx.dead_owners()) == [other.owner.id]
    one.ledger.transact(lambda tx: tx.drop_owner(other.owner.id))
    assert [one.state(t) for t in (held, drawn, waits)] == [GONE, GONE, HELD]
    one.leave(waits)
    assert left_behind(one) == EMPTY
    assert one.count("owner") == 1
    assert one.ledger.read(lambda tx: tx.dead_owners()) == []


def test_what_the_dead_never_read_is_cleared_up(members: Pair) -> None:
    one, other = members
    parent = one.ask(matlab=2)
    one.draw(parent, matlab=2)
    other.draw(parent, matlab=1)
    one.leave(parent)
    assert one.count("refusal") == 1
    other.die()
    one.ledger.transact(lambda tx: tx.drop_owner(other.owner.id))
    assert one.count("refusal") == 0


def test_one_end_may_serve_more_of_a_line_than_a_view_shows(members: Pair) -> None:
    one, other = members
    one.ledger.transact(lambda tx: tx.run("UPDATE cell SET capacity=9 WHERE resource='license.matlab'"))
    held = one.ask(matlab=9)
    waiting = [each.ask(matlab=1) for each in members for _ in range(5)]
    one.leave(held)
    assert [other.state(ticket) for ticket in waiting] == [HELD] * 9 + [WAITING]


def test_what_others_draw_on_a_dead_owner_s_grant_goes_on(state: Path, members: Pair) -> None:
    one, other = members
    parent = other.ask(matlab=2)
    drawn, waits = one.draw(parent, matlab=2), one.draw(parent, matlab=1)
    outside = one.ask(matlab=1)
    other.die()
    one.ledger.transact(lambda tx: tx.drop_owner(other.owner.id))
    assert [one.state(t) for t in (parent, drawn, waits, outside)] == [HELD, HELD, REFUSED, WAITING]
    one.leave(drawn)
    one.leave(waits)
    assert [one.state(t) for t in (parent, outside)] == [GONE, HELD]
    one.leave(outside)
    assert left_behind(one) == EMPTY


def test_the_living_are_told_when_the_dead_make_room(state: Path, members: Pair) -> None:
    one, other = members
    told: list[str] = []
    other.ask(matlab=2)
    waits = one.ask(matlab=1)
    one.ledger.on_settled = told.extend
    other.die()
    one.ledger.transact(lambda tx: tx.drop_owner(other.owner.id))
    assert told == [waits]


def test_the_history_tells_who_held_what(members: Pair) -> None:
    one, other = members
    held = one.ask(matlab=2)
    drawn = other.draw(held, matlab=1)
    other.leave(drawn)
    one.leave(held)
    rows = one.ledger.read(lambda tx: tx.all("SELECT held, label, pid, resource, number, amount FROM history"))
    assert rows == [(held, f"asks {held}", one.owner.pid, "license.matlab", 0, 2)]
    times = one.ledger.read(lambda tx: tx.one("SELECT asked_at, granted_at, ended_at FROM history"))
    assert times is not None
    assert list(times) == sorted(times)


def test_the_history_is_bounded(members: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_slots.ledger.book.HISTORY", 3)
    one, _ = members
    tickets = [one.ask(matlab=1) for _ in range(6)]
    for ticket in tickets:
        one.leave(ticket)
    assert one.ledger.read(lambda tx: tx.all("SELECT held FROM history ORDER BY id")) == [(t,) for t in tickets[3:]]


def test_a_waiter_of_another_process_is_woken_by_name(state: Path, members: Pair) -> None:
    one, _ = members
    with member(state) as (ledger, owner):
        waiter = Member(ledger, owner)
        held, waits = one.ask(matlab=2), waiter.ask(matlab=1)
        wakes = one.ledger.transact(lambda tx: (tx.leave(held), tx.wakes)[1])
        address = ledger.read(lambda tx: tx.one("SELECT wake FROM owner WHERE id=?", owner.id))
        assert address is not None
        assert wakes == [(address[0], waits)]


def test_an_owner_that_ends_by_itself_leaves_nothing(state: Path, members: Pair) -> None:
    one, _ = members
    with member(state) as (ledger, owner):
        guest = Member(ledger, owner)
        guest.ask(matlab=2)
        waits = one.ask(matlab=1)
        ledger.transact(lambda tx: tx.drop_owner(owner.id))
        until(lambda: one.state(waits) is HELD)
    assert one.count("owner") == 2
    assert one.ledger.read(registry.registered).names == tuple(r.name for r in INVENTORY.resources)


def test_an_enrolled_owner_is_there_for_all(state: Path, members: Pair) -> None:
    one, other = members
    new = Owner.start(state)
    one.ledger.transact(lambda tx: tx.enrol(new, "udp:9"))
    shape = Shape(requirement=declare(license="matlab"))
    asked = Asked(shape=shape, ticket=Ticket(id="n", seq=1))
    theirs = Ledger(state, partial(decide, max_overtakes=1), new.id)
    theirs.transact(lambda tx: tx.apply(asked, Request(label="new")))
    theirs.close()
    assert other.state("n") is HELD
    assert other.ledger.read(lambda tx: tx.dead_owners()) == []
    new.end(state)

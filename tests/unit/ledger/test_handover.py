"""Leases that pass from one grant to the next inside the ledger, and those that may not."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from tests.unit.ledger.members import Member, Pair

from prefect_slots.ledger import leases
from prefect_slots.ledger.leases import FLEET_HANDOVERS, LAPSING_SECONDS, Call, LeaseRow, LeaseState
from prefect_slots.ledger.transaction import TicketState, Transaction
from prefect_slots.model.book import Grant, Returned
from prefect_slots.system import clock

FLEET, HERE = "license:matlab", "license:matlab:m1"


def seats(tx: Transaction, grant: Grant) -> tuple[Call, ...]:
    """One call per grant, as wide as the grant."""
    return (Call((FLEET, HERE), sum(amount for _, amount in grant.holdings), fleet=True),)


@pytest.fixture
def members(members: Pair) -> Pair:
    """Two owners that can both reach a server."""
    for each in members:
        each.ledger.plan = seats
        each.ledger.transact(lambda tx: tx.enrol_at_server())
    return members


def lease(one: Member, grant: str, *, weight: int = 2, life: float = 300.0) -> UUID:
    def write(tx: Transaction) -> UUID:
        holder = leases.write_intent(tx, grant, Call((FLEET, HERE), weight, fleet=True), clock.boot_clock())
        assert holder is not None
        assert leases.write_lease(tx, holder, uuid4(), clock.boot_clock() + life)
        return holder

    return one.ledger.transact(write)


def row(one: Member, holder: UUID) -> LeaseRow:
    found = one.ledger.read(lambda tx: leases.get(tx, holder))
    assert found is not None
    return found


def to_release(*members: Member) -> list[UUID]:
    return [row.id for member in members for row in member.ledger.read(leases.to_release)]


def test_a_lease_that_is_just_what_the_next_needs_becomes_its(members: Pair) -> None:
    one, other = members
    first, second = one.ask(matlab=2), other.ask(matlab=2)
    holder = lease(one, first)
    one.leave(first)
    passed = row(other, holder)
    assert (passed.held, passed.owner, passed.state) == (second, other.owner.id, LeaseState.LEASE)
    assert to_release(one, other) == []
    assert not other.ledger.read(lambda tx: leases.in_the_way(tx, (FLEET,), clock.boot_clock()))


def test_a_lease_of_another_weight_goes_back(members: Pair) -> None:
    one, other = members
    first = one.ask(matlab=2)
    other.ask(matlab=1)
    holder = lease(one, first)
    one.leave(first)
    assert row(one, holder).state is LeaseState.RELEASING
    assert to_release(one) == [holder]


@pytest.mark.parametrize("kind", ["lapsing", "intent", "ghost", "lapsed"])
def test_only_a_lease_with_life_in_it_is_handed_over(members: Pair, kind: str) -> None:
    one, other = members
    first, second = one.ask(matlab=2), other.ask(matlab=2)
    holder = lease(one, first, life=LAPSING_SECONDS / 2 if kind == "lapsing" else 300.0)
    if kind == "ghost":
        one.ledger.transact(lambda tx: leases.become_ghost(tx, holder))
    elif kind == "lapsed":
        one.ledger.transact(lambda tx: leases.lapse(tx, holder))
    elif kind == "intent":
        one.ledger.transact(lambda tx: tx.run("UPDATE lease SET state='intent' WHERE id=?", str(holder)))
    one.leave(first)
    assert other.state(second) is TicketState.HELD
    assert other.ledger.read(lambda tx: leases.of_grant(tx, second)) == []


def test_one_lease_serves_one_grant(members: Pair) -> None:
    one, other = members
    first = one.ask(matlab=2)
    a, b = other.ask(matlab=1), other.ask(matlab=1)
    one.ledger.plan = lambda *_: (Call((FLEET, HERE), 2, fleet=True),)
    holder = lease(one, first)
    one.leave(first)
    assert row(one, holder).held == a
    assert other.ledger.read(lambda tx: leases.of_grant(tx, b)) == []


def test_a_process_that_cannot_give_it_back_is_handed_no_lease(members: Pair) -> None:
    one, other = members
    other.ledger.transact(lambda tx: tx.run("UPDATE owner SET releases=0 WHERE id=?", other.owner.id))
    first = one.ask(matlab=2)
    other.ask(matlab=2)
    holder = lease(one, first)
    one.leave(first)
    assert to_release(one) == [holder]


def test_the_fleet_s_leases_change_hands_so_often_and_then_others_get_a_turn(members: Pair) -> None:
    one, other = members
    held = one.ask(matlab=2)
    holder = lease(one, held)
    for _ in range(FLEET_HANDOVERS):
        nxt = other.ask(matlab=2)
        one.leave(held)
        assert row(one, holder).held == nxt
        held = nxt
    other.ask(matlab=2)
    one.leave(held)
    assert to_release(one) == [holder]
    now = clock.boot_clock()
    one.ledger.transact(lambda tx: leases.forget(tx, holder, now))
    assert one.ledger.read(lambda tx: leases.in_the_way(tx, (FLEET, HERE), now + 0.01)), "others may be faster"
    assert not one.ledger.read(lambda tx: leases.in_the_way(tx, (FLEET, HERE), now + 5)), "but not for ever"


def test_who_waits_aside_for_a_seat_gets_the_one_that_comes_free_here(members: Pair) -> None:
    one, other = members
    other.ledger.transact(lambda tx: tx.run("UPDATE cell SET capacity=4 WHERE resource='license.matlab'"))
    first, refused = one.ask(matlab=2), other.ask(matlab=2)
    holder = lease(one, first)
    other.ledger.transact(lambda tx: tx.apply(Returned(grant=refused, blocked_on=FLEET)))
    assert other.state(refused) is TicketState.BLOCKED
    one.leave(first)
    assert other.state(refused) is TicketState.HELD
    assert row(other, holder).held == refused


def test_a_lease_handed_to_a_dead_process_goes_to_the_next(members: Pair) -> None:
    one, other = members
    first = one.ask(matlab=2)
    holder = lease(one, first)
    other.ask(matlab=2)
    third = one.ask(matlab=2)
    other.die()
    one.leave(first)
    assert row(one, holder).held == third
    assert row(one, holder).owner == one.owner.id

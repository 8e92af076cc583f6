"""Who does what one process does for all of the machine: one at a time, and never one that is not heard of."""

from __future__ import annotations

from tests.unit.ledger.members import Pair

from prefect_slots.ledger import election

ROLE = "leader"


def test_who_is_heard_of_keeps_its_role(members: Pair) -> None:
    one, other = members
    assert one.ledger.transact(lambda tx: election.take(tx, ROLE, 100.0))
    assert not other.ledger.transact(lambda tx: election.take(tx, ROLE, 100.0))
    for beat in range(101, 120):
        assert one.ledger.transact(lambda tx, now=float(beat): election.take(tx, ROLE, now))
        assert other.ledger.read(lambda tx, now=float(beat): election.held_by_other(tx, ROLE, now))
        assert not one.ledger.read(lambda tx, now=float(beat): election.held_by_other(tx, ROLE, now))


def test_a_stopped_process_loses_its_role_and_does_not_get_it_back_by_waking(members: Pair) -> None:
    one, other = members
    one.ledger.transact(lambda tx: election.take(tx, ROLE, 100.0))
    late = 100.0 + election.STALE_SECONDS
    assert other.ledger.transact(lambda tx: election.take(tx, ROLE, late))
    assert not one.ledger.transact(lambda tx: election.take(tx, ROLE, late + 1))
    assert other.ledger.transact(lambda tx: election.take(tx, ROLE, late + 1))


def test_two_roles_are_apart(members: Pair) -> None:
    one, other = members
    one.ledger.transact(lambda tx: election.take(tx, ROLE, 100.0))
    assert other.ledger.transact(lambda tx: election.take(tx, "another", 100.0))


def test_a_process_that_has_ended_has_no_role_any_more(members: Pair) -> None:
    one, other = members
    one.ledger.transact(lambda tx: election.take(tx, ROLE, 100.0))
    other.ledger.transact(lambda tx: tx.drop_owner(one.owner.id), frees=True)
    assert other.ledger.transact(lambda tx: election.take(tx, ROLE, 100.1))

"""Rows of leases: each is released once, by whoever owns it, whatever became of its grant and its owner."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

import pytest
from tests.support.processes import member
from tests.unit.ledger.members import Member, Pair

from prefect_slots.ledger import leases
from prefect_slots.ledger.leases import Call, LeaseRow, LeaseState
from prefect_slots.ledger.transaction import TicketState, Transaction
from prefect_slots.model.book import Grant, Returned

INTENT, LEASE, RELEASING = LeaseState.INTENT, LeaseState.LEASE, LeaseState.RELEASING
NAMES = ("license:matlab", "license:matlab:m1")


def intent(one: Member, grant: str, names: tuple[str, ...] = NAMES) -> UUID:
    holder = one.ledger.transact(lambda tx: leases.write_intent(tx, grant, Call(names, 2, fleet=True), 100.0))
    assert holder is not None
    return holder


def answer(one: Member, holder: UUID, deadline: float = 400.0) -> bool:
    return one.ledger.transact(lambda tx: leases.write_lease(tx, holder, uuid4(), deadline))


def lease(one: Member, grant: str) -> UUID:
    holder = intent(one, grant)
    assert answer(one, holder)
    return holder


def row(one: Member, holder: UUID) -> LeaseRow:
    found = one.ledger.read(lambda tx: leases.get(tx, holder))
    assert found is not None
    return found


def releasing(one: Member) -> list[UUID]:
    """What `one` is to give back."""
    return [row.id for row in one.ledger.read(leases.to_release)]


def nothing(tx: Transaction, grant: Grant) -> tuple[Call, ...]:
    """No grant needs anything of the server that another could hand over."""
    return ()


@pytest.fixture
def members(members: Pair) -> Pair:
    """Two owners that can both reach a server."""
    for each in members:
        each.ledger.plan = nothing
        each.ledger.transact(lambda tx: tx.enrol_at_server())
    return members


def test_an_intent_is_the_actor_s_and_becomes_a_lease(members: Pair) -> None:
    one, _ = members
    grant = one.ask(matlab=2)
    holder = intent(one, grant)
    assert row(one, holder) == LeaseRow(
        id=holder,
        held=grant,
        owner=one.owner.id,
        call=Call(NAMES, 2, fleet=True),
        state=INTENT,
        sent_at=100.0,
    )
    assert answer(one, holder, 400.0)
    recorded = row(one, holder)
    assert (recorded.state, recorded.deadline) == (LEASE, 400.0)
    assert recorded.lease_id is not None
    one.ledger.transact(lambda tx: leases.extend(tx, holder, 700.0))
    assert row(one, holder).deadline == 700.0


def test_no_intent_for_what_has_ended_or_closed(members: Pair) -> None:
    one, other = members
    grant = one.ask(matlab=2)
    other.draw(grant, matlab=1)
    one.leave(grant)
    for gone in (grant, "never-was"):
        assert (
            one.ledger.transact(lambda tx, gone=gone: leases.write_intent(tx, gone, Call(NAMES, 1, fleet=True), 0.0))
            is None
        )
    assert one.count("lease") == 0


@pytest.mark.parametrize("end", ["leave", "returned"])
def test_an_answer_that_comes_after_the_grant_has_gone_is_to_be_given_back(members: Pair, end: str) -> None:
    one, _ = members
    grant = one.ask(matlab=2)
    holder = intent(one, grant)
    if end == "leave":
        one.leave(grant)
    else:
        one.ledger.transact(lambda tx: tx.apply(Returned(grant=grant, blocked_on="l")))
        one.ledger.transact(lambda tx: tx.resume(grant))
    assert releasing(one) == [holder], "the call may have been applied"
    assert not answer(one, holder)
    late = row(one, holder)
    assert (late.state, late.lease_id is None) == (RELEASING, False)
    one.ledger.transact(lambda tx: leases.forget(tx, holder, 100.0))
    assert releasing(one) == []


def test_a_renewal_does_not_revive_what_is_being_released(members: Pair) -> None:
    one, _ = members
    grant = one.ask(matlab=2)
    holder = lease(one, grant)
    one.leave(grant)
    one.ledger.transact(lambda tx: leases.extend(tx, holder, 9000.0))
    assert (row(one, holder).state, row(one, holder).deadline) == (RELEASING, 400.0)


def test_who_frees_the_cells_releases(members: Pair) -> None:
    one, other = members
    grant = one.ask(matlab=2)
    first, second = lease(one, grant), lease(one, grant)
    assert releasing(one) == []
    other.leave(grant)
    assert releasing(one) == []
    assert sorted(releasing(other)) == sorted([first, second])


def test_who_cannot_reach_the_server_leaves_the_release_to_its_owner(members: Pair) -> None:
    one, other = members
    other.ledger.plan = None
    grant = one.ask(matlab=2)
    holder = lease(one, grant)
    other.leave(grant)
    assert releasing(one) == [holder]


def test_limits_on_their_way_back_are_not_to_be_asked(members: Pair) -> None:
    one, other = members
    grant = one.ask(matlab=2)
    holder = lease(one, grant)

    def busy(*names: str) -> bool:
        return other.ledger.read(lambda tx: leases.in_the_way(tx, names, 100.0))

    assert not busy(*NAMES)
    one.leave(grant)
    assert busy("x", NAMES[1])
    assert not busy("x")
    one.ledger.transact(lambda tx: leases.forget(tx, holder, 100.0))
    assert not busy(*NAMES)


def test_a_lost_answer_holds_nobody_up(members: Pair) -> None:
    one, other = members
    grant = one.ask(matlab=2)
    holder = one.ledger.transact(lambda tx: leases.write_intent(tx, grant, Call(NAMES, 1, fleet=True), 100.0))
    assert holder is not None
    one.leave(grant)
    assert row(one, holder).state == RELEASING
    assert not other.ledger.read(lambda tx: leases.in_the_way(tx, NAMES, 100.0))


def test_a_dead_owner_s_leases_are_released_by_its_reaper(state: Path, members: Pair) -> None:
    one, other = members
    grant = other.ask(matlab=2)
    recorded, asked = lease(other, grant), intent(other, grant)
    other.die()
    assert one.ledger.read(lambda tx: tx.dead_owners()) == [other.owner.id]
    one.ledger.transact(lambda tx: tx.drop_owner(other.owner.id))
    assert one.state(grant) is TicketState.GONE
    assert sorted(releasing(one)) == sorted([recorded, asked])
    assert one.count("owner") == 1


def test_a_reaper_without_a_server_frees_the_cells_and_leaves_the_leases_to_one_with_it(
    state: Path, members: Pair
) -> None:
    one, other = members
    one.ledger.plan = None
    grant = other.ask(matlab=2)
    holder = lease(other, grant)
    other.die()
    one.ledger.transact(lambda tx: tx.drop_owner(other.owner.id))
    assert one.state(grant) is TicketState.GONE
    assert row(one, holder).owner == other.owner.id
    assert one.ledger.read(lambda tx: tx.dead_owners()) == [], "it can do no more about that one"
    one.ledger.plan = nothing
    assert one.ledger.read(lambda tx: tx.dead_owners()) == [other.owner.id]
    one.ledger.transact(lambda tx: tx.drop_owner(other.owner.id))
    assert releasing(one) == [holder]
    assert one.count("owner") == 1


@pytest.mark.parametrize("depth", [1, 2])
def test_while_others_draw_on_a_dead_owner_s_grant_its_leases_live_on(state: Path, members: Pair, depth: int) -> None:
    one, other = members
    grant = other.ask(matlab=2)
    holder = lease(other, grant)
    # A job's step may be served from the step around it, which its own process holds and dies with.
    source = grant if depth == 1 else other.draw(grant, matlab=2)
    drawn = one.draw(source, matlab=1)
    other.die()
    one.ledger.transact(lambda tx: tx.drop_owner(other.owner.id))
    assert one.state(grant) is TicketState.HELD
    assert row(one, holder).state is LEASE, "its cells are in use, so the server must go on counting them"
    assert row(one, holder).owner == one.owner.id
    one.leave(drawn)
    assert one.state(grant) is TicketState.GONE
    assert releasing(one) == [holder]


def test_a_boot_starts_the_times_of_leases_anew(members: Pair) -> None:
    one, _ = members
    holder = lease(one, one.ask(matlab=2))

    def before_the_boot(tx: Transaction) -> None:
        tx.set_meta("boot", "before")
        tx.run("UPDATE lease SET sent_at=1e9, deadline=1e9, answered=1e9")

    one.ledger.transact(before_the_boot)
    with member(one.ledger.folder):
        after = row(one, holder)
    assert after.answered is None, "a lost answer would be waited for until the clock has come so far again"
    assert after.deadline is not None
    assert max(after.sent_at, after.deadline) < 1e9

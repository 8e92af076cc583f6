"""The named reads: each returns what the tables say of holdings, waiting tickets, owners and history."""

from __future__ import annotations

from tests.unit.ledger.members import Pair

from prefect_slots.ledger import queries, registry, usage
from prefect_slots.model.book import CellId

SEATS = CellId("license.matlab", 0)


def test_holdings_tell_draws_from_what_is_held_by_its_own_right(members: Pair) -> None:
    one, other = members
    held = one.ask(matlab=2)
    drawn = other.draw(held, matlab=1)
    parts = {part.grant: part for part in one.ledger.read(lambda tx: queries.holdings(tx, "license.matlab"))}
    assert {grant: (part.cell, part.declared, part.source) for grant, part in parts.items()} == {
        held: (SEATS, 2, None),
        drawn: (SEATS, 1, held),
    }
    assert parts[held].pid == one.owner.pid
    assert one.ledger.read(lambda tx: queries.holdings(tx, "gpu_mem")) == ()
    assert set(one.ledger.read(queries.holdings)) == set(parts.values())


def test_the_processes_of_a_grant_come_with_it_in_the_order_of_writing(members: Pair) -> None:
    one, _ = members
    held = one.ask(matlab=2)
    one.ledger.transact(lambda tx: usage.note_serving(tx, 20, 2.0, held))
    one.ledger.transact(lambda tx: usage.note_serving(tx, 10, 1.0, held))
    (part,) = one.ledger.read(queries.holdings)
    assert part.processes == ((20, 2.0), (10, 1.0))
    assert part.user == 20


def test_waiting_tickets_come_by_arrival_with_their_shape_and_limit(members: Pair) -> None:
    one, other = members
    one.ask(matlab=2)
    first, second = other.ask(matlab=1), one.ask(matlab=2, priority=3)
    one.ledger.transact(lambda tx: tx.run("UPDATE ticket SET blocked_on='l', overtaken=4 WHERE id=?", first))
    waiting = one.ledger.read(queries.waiting)
    assert [(each.id, each.blocked_on, each.overtaken, each.shape.priority) for each in waiting] == [
        (first, "l", 4, 0),
        (second, None, 0, 3),
    ]
    assert one.ledger.read(lambda tx: (tx.blocked_limits(), tx.blocked_limit(first), tx.blocked_limit(second))) == (
        ["l"],
        "l",
        None,
    )


def test_owners_come_with_the_number_of_what_they_have(members: Pair) -> None:
    one, other = members
    held = one.ask(matlab=2)
    other.ask(matlab=1)
    counts = {each.lock_file: (each.grants, each.tickets) for each in one.ledger.read(queries.owners)}
    assert counts == {one.owner.lock_file: (1, 0), other.owner.lock_file: (0, 1)}
    assert one.ledger.read(queries.owner_pids) == {one.owner.pid, other.owner.pid}
    assert one.ledger.read(lambda tx: queries.grants_beside(tx, held)) == 1
    assert one.ledger.read(lambda tx: queries.label(tx, held)) == f"asks {held}"
    assert one.ledger.read(lambda tx: queries.label(tx, "gone")) == "gone"


def test_history_has_what_has_ended_since_and_no_draws(members: Pair) -> None:
    one, _ = members
    held = one.ask(matlab=2)
    one.leave(one.draw(held, matlab=1))
    assert one.ledger.read(queries.history) == ()
    one.leave(held)
    (span,) = one.ledger.read(queries.history)
    assert (span.grant, span.resource, span.number, span.amount) == (held, *SEATS, 2)
    assert span.asked_at <= span.granted_at <= span.ended_at
    assert one.ledger.read(lambda tx: queries.history(tx, "license.matlab", span.ended_at - 1)) == (span,)
    assert one.ledger.read(lambda tx: queries.history(tx, "license.matlab", span.ended_at)) == ()
    assert one.ledger.read(lambda tx: queries.history(tx, "gpu_mem")) == ()


def test_foreign_use_is_the_servers_count_and_what_is_blocked_beside_it(members: Pair) -> None:
    one, _ = members
    assert one.ledger.transact(lambda tx: registry.note_counted(tx, SEATS, 1))
    assert not one.ledger.transact(lambda tx: registry.note_counted(tx, SEATS, 1))
    assert one.ledger.transact(lambda tx: registry.block(tx, SEATS, 1))
    assert one.ledger.read(registry.counted) == {SEATS: 1}
    (cell,) = one.ledger.read(registry.registered).cells("license.matlab")
    assert cell.foreign == 2
    assert one.ledger.read(registry.registered).cells("unknown") == ()


def test_use_of_ended_grants_is_taken_once(members: Pair) -> None:
    one, _ = members
    held, gone = one.ask(matlab=1), one.ask(matlab=1)
    for grant in (held, gone):
        spent = usage.Spent(held=grant, cell=SEATS, label=grant, declared=1)
        one.ledger.transact(lambda tx, seen=spent: usage.write_spent(tx, seen))
    one.leave(gone)
    assert [spent.held for spent in one.ledger.transact(usage.take_ended)] == [gone]
    assert one.ledger.transact(usage.take_ended) == []
    assert [grant for grant, _ in one.ledger.read(usage.read_spent)] == [held]
    assert one.ledger.read(lambda tx: usage.is_measured(tx, "license.matlab"))
    assert not one.ledger.read(lambda tx: usage.is_measured(tx, "mem"))

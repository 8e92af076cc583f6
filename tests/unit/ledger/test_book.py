"""The book as rows: a view shows the front of each line, and what is written is read back as it was."""

from __future__ import annotations

from tests.unit.ledger.members import Member, Pair

from prefect_slots.ledger.book import read_book
from prefect_slots.model.book import FRONT, Asked, CellId, Holding, Line, Nesting, Shape, Ticket
from prefect_slots.model.request import Request
from prefect_slots.model.requirement import Demand, Requirement, Share, declare


def lines(one: Member, front: int = FRONT) -> tuple[Line, ...]:
    return one.ledger.read(lambda tx: read_book(tx, front)).lines


def test_a_line_shows_its_front_and_says_that_more_wait(members: Pair) -> None:
    one, other = members
    one.ask(matlab=2)
    tickets = [each.ask(matlab=1) for each in (one, other) * 3]
    (line,) = lines(one)
    assert [ticket.id for ticket in line.tickets] == tickets[:FRONT]
    assert line.truncated
    (whole,) = lines(one, len(tickets))
    assert [ticket.id for ticket in whole.tickets] == tickets
    assert not whole.truncated
    assert [ticket.seq for ticket in whole.tickets] == sorted(ticket.seq for ticket in whole.tickets)


def test_all_that_reserve_are_shown_beside_the_front(members: Pair) -> None:
    one, _ = members
    one.ask(matlab=2)
    tickets = [one.ask(matlab=1) for _ in range(6)]
    one.ledger.transact(lambda tx: [tx.run("UPDATE ticket SET reserved='[]' WHERE id=?", t) for t in tickets[:2]])
    (line,) = lines(one, 2)
    assert [ticket.id for ticket in line.tickets] == tickets[:4]
    assert line.truncated


def test_blocked_tickets_are_not_shown(members: Pair) -> None:
    one, _ = members
    one.ask(matlab=2)
    first, second = one.ask(matlab=1), one.ask(matlab=1)
    one.ledger.transact(lambda tx: tx.run("UPDATE ticket SET blocked_on='l' WHERE id=?", first))
    (line,) = lines(one)
    assert [ticket.id for ticket in line.tickets] == [second]
    assert not line.truncated


def test_equal_shapes_share_a_line_and_nested_ones_never(members: Pair) -> None:
    one, other = members
    held = one.ask(matlab=2)
    one.draw(held, matlab=2)
    for each in members:
        each.ask(matlab=1)
        each.ask(matlab=1, priority=3)
        each.draw(held, matlab=1)
    found = lines(other)
    assert sorted(len(line.tickets) for line in found) == [1, 1, 2, 2]
    nested = [line for line in found if line.shape.nesting]
    assert {line.shape.pool for line in nested} == {held}
    assert all(line.shape.nesting and line.shape.nesting.ticket == line.tickets[0].id for line in nested)


def test_what_a_ticket_reserves_is_read_back(members: Pair) -> None:
    one, other = members
    one.ask(matlab=1)
    wide = one.ask(matlab=2)
    other.leave(other.ask(matlab=1))
    (line,) = lines(one)
    assert line.tickets[0].id == wide
    assert line.overtakes - line.tickets[0].base == 1
    assert line.tickets[0].reserved == (Holding(CellId("license.matlab", 0), 2),)


def test_a_grant_is_read_back_as_it_was_given(members: Pair) -> None:
    one, _ = members
    ticket = one.ask(priority=2, matlab=2)
    drawn = one.draw(ticket, matlab=1)
    grant = one.ledger.read(lambda tx: tx.grant(ticket))
    assert grant.shape == Shape(requirement=declare(license={"matlab": 2}), priority=2)
    assert grant.holdings == (Holding(CellId("license.matlab", 0), 2),)
    assert not grant.closed
    inner = one.ledger.read(lambda tx: tx.grant(drawn))
    assert inner.shape.nesting == Nesting(ticket=drawn, parent=ticket, root=ticket, source=ticket)
    assert inner.root == ticket
    one.leave(ticket)
    assert one.ledger.read(lambda tx: tx.grant(ticket)).closed


def test_a_share_of_a_card_survives_the_table(members: Pair) -> None:
    one, _ = members
    half = Requirement.of([Demand(resource="gpu_mem", amount=Share(500_000), cells=2)])
    ask = Asked(shape=Shape(requirement=half), ticket=Ticket(id="half", seq=1000))
    one.ledger.transact(lambda tx: tx.apply(ask, Request(label="")))
    grant = one.ledger.read(lambda tx: tx.grant("half"))
    assert grant.shape.requirement == half
    assert grant.holdings == (Holding(CellId("gpu_mem", 0), 12), Holding(CellId("gpu_mem", 1), 12))


def test_a_shape_lives_as_long_as_somebody_of_it_waits(members: Pair) -> None:
    one, other = members
    held = one.ask(matlab=2)
    first, second = one.ask(matlab=1), other.ask(matlab=1)
    assert one.count("shape") == 1
    one.leave(first)
    assert one.count("shape") == 1
    one.leave(second)
    assert one.count("shape") == 0
    one.leave(held)
    assert lines(one) == ()

"""Admission: who is next in one pool, and what is set aside on the way there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.interleavings import ask, cells

from prefect_slots.model.book import Book, CellId, Grant, Holding, Line, Nesting, Shape, Ticket
from prefect_slots.model.requirement import Requirement
from prefect_slots.scheduling.admission import Admission, admit
from prefect_slots.scheduling.placement import grant_pool, machine_pool


def _line(wanted: Requirement, *tickets: tuple[int, int], priority: int = 0, nesting: Nesting | None = None) -> Line:
    """Return a line of `(arrival, overtakes)`; a ticket's id is its arrival."""
    made = tuple(Ticket(id=nesting.ticket if nesting else str(seq), seq=seq, base=9 - count) for seq, count in tickets)
    return Line(shape=Shape(requirement=wanted, priority=priority, nesting=nesting), overtakes=9, tickets=made)


def _admit(
    lines: list[Line], *, allowed: int = 1, source: str | None = None, grants: tuple[Grant, ...] = (), **free: list[int]
) -> Admission:
    book = Book(cells=cells(**free), grants=grants)
    by_id = {grant.id: grant for grant in grants}
    pool = machine_pool(book) if source is None else grant_pool(book, by_id[source])
    return admit(pool, source, {line.shape.key: line for line in lines}, by_id, allowed, 0.0)


def _found(admission: Admission) -> str | None:
    return admission.found[1].id if admission.found else None


def _aside(admission: Admission) -> dict[str, int]:
    return {reservation.ticket.id: reservation.cells[0].cell.number for reservation in admission.reservations}


def test_higher_priority_comes_first_then_earlier_arrival() -> None:
    late, urgent, early = _line(ask(g=1), (3, 0)), _line(ask(g=2), (4, 0), priority=1), _line(ask(g=3), (2, 0))
    assert _found(_admit([late, urgent, early], g=[3])) == "4"
    assert _found(_admit([late, early], g=[3])) == "2"
    assert _found(_admit([late, early], g=[2])) == "3"


def test_who_reserves_comes_before_priority_and_among_themselves_by_arrival() -> None:
    patient, older = _line(ask(g=2), (2, 1)), _line(ask(g=3), (1, 5))
    urgent = _line(ask(g=1), (3, 0), priority=9)
    assert _found(_admit([urgent, patient, older], g=[3])) == "1"
    assert _found(_admit([urgent, patient], g=[3])) == "2"


def test_what_is_set_aside_is_not_there_for_those_behind() -> None:
    patient, small = _line(ask(g=4), (1, 1)), _line(ask(g=1), (2, 0))
    admission = _admit([patient, small], g=[4, 2], grants=(_holder(g=1),))
    assert _aside(admission) == {"1": 0}
    assert admission.found is not None
    assert admission.found[2].holdings == (Holding(CellId("g", 1), 1),)


def _holder(**held: int) -> Grant:
    holdings = tuple(Holding(CellId(name, 0), amount) for name, amount in held.items())
    return Grant(id="h", shape=Shape(requirement=ask(**held)), holdings=holdings)


def test_who_could_not_fit_an_idle_machine_sets_nothing_aside() -> None:
    stranded, small = _line(ask(g=5), (1, 3)), _line(ask(g=1), (2, 0))
    admission = _admit([stranded, small], g=[4])
    assert (_aside(admission), _found(admission)) == ({}, "2")


def test_reserving_ends_when_nothing_is_left() -> None:
    line = _line(ask(g=2), (1, 3), (2, 3), (3, 3), (4, 3))
    admission = _admit([line], g=[4], grants=(_holder(g=3),))
    assert _aside(admission) == {"1": 0}


def test_a_nested_request_is_looked_at_though_nothing_is_left_for_it() -> None:
    reserver = _line(ask(a=1, c=1), (1, 5))
    nested = _line(ask(c=1), (2, 5), nesting=Nesting(ticket="n", parent="h", root="h", source=None))
    stranger = _line(ask(c=1), (3, 5))
    admission = _admit([reserver, nested, stranger], a=[1], c=[1], grants=(_holder(a=1),))
    assert _found(admission) == "n"


@pytest.mark.parametrize("overtakes", [0, 5])
def test_without_the_nested_requests_chain_being_waited_for_the_reservation_holds(overtakes: int) -> None:
    reserver = _line(ask(a=1, c=1), (1, 5))
    nested = _line(ask(c=1), (2, overtakes), nesting=Nesting(ticket="n", parent="o", root="o", source=None))
    assert _found(_admit([reserver, nested], a=[1], c=[1], grants=(_holder(a=1),))) is None


def test_more_is_needed_when_all_that_is_shown_of_a_line_reserves() -> None:
    line = replace(_line(ask(g=1), (1, 3), (2, 3)), truncated=True)
    admission = _admit([line], g=[4], grants=(_holder(g=4),))
    assert admission.need_more is False, "nothing is left to reserve, so that no more needs to be known"
    admission = _admit([line], g=[9], grants=(_holder(g=1),))
    assert admission.need_more
    assert admission.found is None
    assert list(_aside(admission)) == ["1", "2"]


def test_the_first_that_does_not_reserve_is_enough_to_know() -> None:
    line = replace(_line(ask(g=1), (1, 3), (2, 0)), truncated=True)
    assert _found(_admit([line], g=[4])) == "1"


def test_a_pool_serves_those_who_draw_on_it_and_nobody_else() -> None:
    at = Nesting(ticket="n", parent="h", root="h", source="h")
    lines = [_line(ask(g=2), (1, 0)), _line(ask(g=3), (2, 0), nesting=at)]
    assert _found(_admit(lines, g=[9], grants=(_holder(g=4),))) == "1"
    assert _found(_admit(lines, g=[9], grants=(_holder(g=4),), source="h")) == "n"

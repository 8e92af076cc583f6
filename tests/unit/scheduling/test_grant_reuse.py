"""When a grant may serve another task of its shape: never while that could cost anybody anything."""

from __future__ import annotations

from dataclasses import replace

from prefect_slots.model.book import Book, CellId, CellState, Grant, Holding, Line, Nesting, Shape, Ticket
from prefect_slots.model.requirement import declare
from prefect_slots.model.resource import Scope
from prefect_slots.scheduling.grant_reuse import may_go_on

CELL = CellId("scanner", 0)
SHAPE = Shape(requirement=declare(scanner=1))
GRANT = Grant(id="held", shape=SHAPE, holdings=(Holding(CELL, 1),))
OWN = Line(shape=SHAPE, tickets=(Ticket(id="own", seq=2),))
OTHER = Line(shape=replace(SHAPE, priority=-1), tickets=(Ticket(id="other", seq=3),))
ALONE = Book(cells=(CellState(id=CELL, capacity=1),), grants=(GRANT,), lines=(OWN,))


def test_alone_it_goes_on() -> None:
    assert may_go_on(ALONE, "held", "own", {"scanner": Scope.WORKER})
    assert may_go_on(replace(ALONE, lines=()), "held", None, {})


def test_not_while_anybody_else_waits() -> None:
    assert not may_go_on(replace(ALONE, lines=(OWN, OTHER)), "held", "own", {})
    behind = replace(OWN, tickets=(*OWN.tickets, Ticket(id="alike", seq=4)))
    assert not may_go_on(replace(ALONE, lines=(behind,)), "held", "own", {})
    assert not may_go_on(ALONE, "held", None, {})


def test_not_with_what_the_fleet_shares() -> None:
    assert not may_go_on(ALONE, "held", "own", {"scanner": Scope.FLEET})


def test_not_on_a_cell_that_has_become_too_small() -> None:
    shrunk = (CellState(id=CELL, capacity=1, foreign=1),)
    assert not may_go_on(replace(ALONE, cells=shrunk), "held", "own", {})


def test_not_if_it_has_ended_or_is_drawn_from_another() -> None:
    assert not may_go_on(ALONE, "gone", "own", {})
    assert not may_go_on(replace(ALONE, grants=(replace(GRANT, closed=True),)), "held", "own", {})
    nesting = Nesting(ticket="held", parent="outer", root="outer", source="outer")
    drawn = replace(GRANT, shape=replace(SHAPE, nesting=nesting))
    outer = replace(GRANT, id="outer")
    assert not may_go_on(replace(ALONE, grants=(outer, drawn)), "held", "own", {})

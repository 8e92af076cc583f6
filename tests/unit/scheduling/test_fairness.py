"""Fairness: who reserves, which cells, and what counts as being overtaken."""

from __future__ import annotations

import pytest
from tests.support.interleavings import ask, cells

from prefect_slots.model.book import Book, CellId, Holding, Line, Shape, Ticket
from prefect_slots.model.requirement import Demand, Requirement
from prefect_slots.scheduling.fairness import (
    choose_cells,
    exhausted,
    front,
    is_hurt,
    overtaken,
    preferred,
    reserving,
    set_aside,
)
from prefect_slots.scheduling.placement import Pool, machine_pool

CELL = (Holding(CellId("g", 0), 1),)


def _line(*tickets: tuple[int, bool], overtakes: int = 5) -> Line:
    made = tuple(
        Ticket(id=f"t{seq}", seq=seq, base=overtakes - count, reserved=CELL if kept else ())
        for seq, (count, kept) in enumerate(tickets)
    )
    return Line(shape=Shape(requirement=ask(g=1)), overtakes=overtakes, tickets=made)


@pytest.mark.parametrize(
    ("tickets", "number"),
    [
        ([], 0),
        ([(0, False)], 0),
        ([(2, False), (1, False)], 1),
        ([(3, False), (2, False), (0, False)], 2),
        # A ticket that stands before one that reserves does too, however late it was put back there.
        ([(0, False), (2, True), (1, False)], 2),
        ([(0, False), (2, True), (2, False)], 3),
        # One that stands behind a ticket which does not reserve yet waits for that one.
        ([(0, False), (2, False)], 0),
    ],
)
def test_those_that_reserve_are_the_first_of_their_line(tickets: list[tuple[int, bool]], number: int) -> None:
    assert reserving(_line(*tickets), 2) == number


def test_in_strict_order_everybody_reserves() -> None:
    assert reserving(_line((0, False), (0, False)), 0) == 2


def test_the_front_are_those_without_cells() -> None:
    line = _line((3, True), (2, False), (0, False))
    assert [ticket.id for ticket in front(line)] == ["t1", "t2"]
    assert [overtaken(line, ticket) for ticket in line.tickets] == [3, 2, 0]


def test_only_what_is_there_can_be_set_aside() -> None:
    amounts = {CellId("g", 0): 3, CellId("g", 1): -2}
    set_aside(amounts, [Holding(CellId("g", 0), 5), Holding(CellId("g", 1), 1), Holding(CellId("h", 0), 1)])
    assert amounts == {CellId("g", 0): 0, CellId("g", 1): -2}


def _pool(*free: int, capacity: int = 8) -> Pool:
    pool = machine_pool(Book(cells=cells(g=[capacity] * len(free))))
    pool.free.update({CellId("g", number): units for number, units in enumerate(free)})
    return pool


def _chosen(pool: Pool, kept: list[int], amount: int = 4, number: int = 1) -> list[int]:
    wanted = Requirement.of([Demand(resource="g", amount=amount, cells=number)])
    held = tuple(Holding(CellId("g", cell), amount) for cell in kept)
    chosen = choose_cells(pool, wanted, held, pool.free)
    assert all(units == amount for _, units in chosen)
    return [cell.number for cell, _ in chosen]


def test_the_first_alternative_that_an_idle_machine_has_room_for_is_reserved() -> None:
    pool = _pool(0, 0)
    wanted = Requirement.any_of([ask(g=9), ask(g=8), ask(g=1)])
    assert preferred(pool, Shape(requirement=wanted)) == ask(g=8)


def test_the_cell_that_lacks_least_is_reserved() -> None:
    assert _chosen(_pool(1, 3, 2), []) == [1]


def test_a_reservation_stays_where_it_is_though_another_cell_lacks_less() -> None:
    assert _chosen(_pool(1, 3, 2), [0]) == [0]


def test_it_moves_to_where_there_is_room_at_once_best_fit() -> None:
    assert _chosen(_pool(1, 7, 5), [0]) == [2]


def test_it_stays_though_there_is_room_elsewhere_too() -> None:
    assert _chosen(_pool(6, 4), [0]) == [0]


def test_of_several_cells_those_with_room_come_first_then_those_kept() -> None:
    assert _chosen(_pool(0, 3, 5), [0, 2], number=2) == [0, 2]
    assert _chosen(_pool(0, 3, 2, 5), [0, 2], number=2) == [2, 3]


def test_a_cell_too_small_for_the_demand_is_never_reserved() -> None:
    pool = machine_pool(Book(cells=cells(g=[3, 8])))
    pool.free[CellId("g", 1)] = 0
    assert _chosen(pool, []) == [1]


def test_nothing_left_of_anything_is_exhausted() -> None:
    pool = machine_pool(Book(cells=cells(g=[4, 4], h=[1])))
    shape = Shape(requirement=ask(g=2, h=1))
    assert exhausted(pool, shape, {CellId("g", 0): 0, CellId("g", 1): -1, CellId("h", 0): 0})
    assert not exhausted(pool, shape, {CellId("g", 0): 0, CellId("g", 1): 1, CellId("h", 0): 0})
    assert not exhausted(pool, shape, {CellId("g", 0): 0, CellId("g", 1): 0, CellId("h", 0): 1})


@pytest.mark.parametrize(
    ("free", "granted", "hurt"),
    [
        ([1, 1], ("g", 0), True),
        ([1, 2], ("g", 0), False),
        ([0, 0], ("h", 0), False),
    ],
)
def test_a_grant_hurts_whom_it_leaves_without_room(free: list[int], granted: tuple[str, int], hurt: bool) -> None:
    shape = Shape(requirement=ask(g=2))
    assert is_hurt(_pool(*free), shape, [Holding(CellId(*granted), 1)]) is hurt

"""Placement: best fit on single cells, and which cells serve whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.interleavings import ask, cells

from prefect_slots.model.amount import Exclusive
from prefect_slots.model.book import Book, CellId, CellState, Grant, Holding, Nesting, Shape
from prefect_slots.model.gpu_filter import GpuFilter
from prefect_slots.model.requirement import WHOLE, Demand, Requirement, Share
from prefect_slots.scheduling.placement import fits, grant_pool, machine_pool, place


def _on(resource: str, *numbers: int) -> list[CellId]:
    return [CellId(resource, number) for number in numbers]


def _placed(book: Book, demand: Demand) -> list[Holding] | None:
    pool = machine_pool(book)
    placed = place(pool, Requirement.of([demand]), pool.free)
    return None if placed is None else list(placed.holdings)


def _holder(ticket: str, *holdings: tuple[str, int, int], source: str | None = None) -> Grant:
    nesting = Nesting(ticket=ticket, parent=source, root=source, source=source) if source else None
    shape = Shape(requirement=ask(**{name: amount for name, _, amount in holdings}), nesting=nesting)
    held = tuple(Holding(CellId(name, number), amount) for name, number, amount in holdings)
    return Grant(id=ticket, shape=shape, holdings=held)


@pytest.mark.parametrize(
    ("capacities", "amount", "number"),
    [([8, 4, 6], 4, 1), ([8, 4, 6], 5, 2), ([8, 4, 6], 7, 0), ([4, 4], 4, 0), ([4, 4], 1, 0)],
)
def test_the_cell_with_least_left_over_is_taken_and_of_equals_the_first(
    capacities: list[int], amount: int, number: int
) -> None:
    demand = Demand(resource="gpu_mem", amount=amount)
    assert _placed(Book(cells=cells(gpu_mem=capacities)), demand) == [Holding(CellId("gpu_mem", number), amount)]


def test_an_amount_never_straddles_cells() -> None:
    book = Book(cells=cells(gpu_mem=[4, 4]))
    assert _placed(book, Demand(resource="gpu_mem", amount=5)) is None
    assert _placed(book, Demand(resource="gpu_mem", amount=4, cells=3)) is None
    assert _placed(book, Demand(resource="scanner", amount=1)) is None


def test_several_cells_are_different_ones_best_fitting_first() -> None:
    book = Book(cells=cells(gpu_mem=[9, 4, 5]))
    placed = _placed(book, Demand(resource="gpu_mem", amount=4, cells=2))
    assert placed == [Holding(cell, 4) for cell in _on("gpu_mem", 1, 2)]


def test_a_share_takes_what_it_is_of_the_cell_it_lands_on() -> None:
    book = Book(cells=cells(gpu_mem=[9, 4]), grants=(_holder("a", ("gpu_mem", 1, 1)),))
    assert _placed(book, Demand(resource="gpu_mem", amount=Share(WHOLE))) == [Holding(CellId("gpu_mem", 0), 9)]
    assert _placed(book, Demand(resource="gpu_mem", amount=Share(WHOLE // 2))) == [Holding(CellId("gpu_mem", 1), 2)]


def _gpus(*cards: tuple[str, int]) -> tuple[CellState, ...]:
    return tuple(
        CellState(id=CellId("gpu_mem", number), capacity=capacity, label=label)
        for number, (label, capacity) in enumerate(cards)
    )


@pytest.mark.parametrize(
    ("cards", "number"),
    [
        ([("T400", 4), ("A6000", 48), ("A6000", 48)], 1),
        ([("A6000", 48), ("T400", 4)], 0),
        ([("A100", 80), ("A100", 40), ("A100", 40)], 1),
        ([("T400", 4), ("T400", 4), ("A6000", 48)], 0),
    ],
)
def test_a_whole_card_is_of_the_kind_that_the_machine_has_most_of_then_the_largest(
    cards: list[tuple[str, int]], number: int
) -> None:
    for share in (WHOLE, WHOLE // 4):
        placed = _placed(Book(cells=_gpus(*cards)), Demand(resource="gpu_mem", amount=Share(share)))
        assert [held.cell.number for held in placed or ()] == [number]


def test_a_part_of_a_card_goes_to_the_fullest_card_by_shares() -> None:
    book = Book(cells=_gpus(("A", 8), ("B", 80)), grants=(_holder("a", ("gpu_mem", 1, 60)),))
    assert _placed(book, Demand(resource="gpu_mem", amount=Share(WHOLE // 4))) == [Holding(CellId("gpu_mem", 1), 20)]


def test_a_filter_leaves_only_the_cards_that_will_do() -> None:
    book = Book(cells=_gpus(("NVIDIA T400", 4), ("NVIDIA A6000", 48), ("NVIDIA H100", 80)))

    def number(amount: int | Share, **words: str) -> int | None:
        placed = _placed(book, Demand(resource="gpu_mem", amount=amount, gpu=GpuFilter(**words)))
        return placed[0].cell.number if placed else None

    assert number(2) == 0
    assert number(2, name="a6000|h100") == 1
    assert number(Share(WHOLE), name="T400") == 0
    assert number(2, name="V100") is None
    assert number(2, capability=">=5") is None
    pool, two = machine_pool(book), Demand(resource="gpu_mem", amount=2, cells=2, gpu=GpuFilter("A6000|H100"))
    assert fits(pool, two, pool.free)
    assert not fits(pool, replace(two, cells=3), pool.free)


def test_all_demands_fit_or_none_is_placed() -> None:
    pool = machine_pool(Book(cells=cells(cpus=[4], mem=[8])))
    assert place(pool, ask(cpus=4, mem=9), pool.free) is None
    placed = place(pool, ask(cpus=4, mem=8), pool.free)
    assert placed == (0, (Holding(CellId("cpus", 0), 4), Holding(CellId("mem", 0), 8)))


def test_of_alternatives_the_first_that_fits_is_placed() -> None:
    pool = machine_pool(Book(cells=cells(cpus=[4], mem=[8])))
    wanted = Requirement.any_of([ask(mem=9), ask(mem=8, cpus=5), ask(cpus=4), ask(mem=1)])
    assert place(pool, wanted, pool.free) == (2, (Holding(CellId("cpus", 0), 4),))
    assert place(pool, Requirement.any_of([ask(mem=9), ask(cpus=5)]), pool.free) is None


def test_foreign_use_and_holders_leave_less() -> None:
    used = CellState(id=CellId("mem", 0), capacity=10, foreign=3)
    pool = machine_pool(Book(cells=(used,), grants=(_holder("a", ("mem", 0, 4)),)))
    assert (pool.nominal, pool.most, pool.free) == ({used.id: 10}, {used.id: 7}, {used.id: 3})


def test_after_a_cut_below_what_is_held_less_than_nothing_is_free() -> None:
    cut = CellState(id=CellId("mem", 0), capacity=2)
    pool = machine_pool(Book(cells=(cut,), grants=(_holder("a", ("mem", 0, 4)),)))
    assert pool.free == {cut.id: -2}
    assert not fits(pool, Demand(resource="mem", amount=1), pool.free)


def test_a_held_cell_that_is_no_longer_registered_offers_nothing() -> None:
    book = Book(cells=cells(mem=[4]), grants=(_holder("a", ("gpu_mem", 0, 2)),))
    pool = machine_pool(book)
    gone = CellId("gpu_mem", 0)
    assert (pool.nominal[gone], pool.most[gone], pool.free[gone]) == (0, 0, -2)
    assert _placed(book, Demand(resource="gpu_mem", amount=Share(WHOLE))) is None


def test_draws_take_from_their_grant_and_not_from_the_machine() -> None:
    source = _holder("a", ("mem", 0, 6))
    book = Book(cells=cells(mem=[10]), grants=(source, _holder("b", ("mem", 0, 4), source="a")))
    mem = CellId("mem", 0)
    assert machine_pool(book).free == {mem: 4}
    drawn = grant_pool(book, source)
    assert (drawn.nominal, drawn.most, drawn.free) == ({mem: 10}, {mem: 6}, {mem: 2})


def test_a_lone_cell_is_never_taken_beside_another() -> None:
    """C04: CUDA shows a process one MIG instance at most."""
    first, *rest = cells(gpu_mem=[9, 9, 9])
    book = Book(cells=(replace(first, lone=True), *rest))
    assert _placed(book, Demand(resource="gpu_mem", amount=9)) == [Holding(CellId("gpu_mem", 0), 9)]
    both = [Holding(cell, 4) for cell in _on("gpu_mem", 1, 2)]
    assert _placed(book, Demand(resource="gpu_mem", amount=4, cells=2)) == both
    assert _placed(book, Demand(resource="gpu_mem", amount=4, cells=3)) is None


def test_a_whole_gpu_is_all_but_the_memory_of_its_display() -> None:
    (card,) = cells(gpu_mem=[24])
    whole = Demand(resource="gpu_mem", amount=Share(WHOLE))
    assert _placed(Book(cells=(replace(card, foreign=3, display=3),)), whole) == [Holding(card.id, 21)]
    assert _placed(Book(cells=(replace(card, foreign=4, display=3),)), whole) is None
    assert _placed(Book(cells=(replace(card, capacity=Exclusive(24), foreign=3, display=3),)), whole) == [
        Holding(card.id, 21)
    ]


def test_a_draw_on_a_whole_gpu_is_of_what_its_holder_was_given() -> None:
    """The display's memory has changed since."""
    (card,) = cells(gpu_mem=[24])
    shape = Shape(requirement=Requirement.of([Demand(resource="gpu_mem", amount=Share(WHOLE))]))
    holder = Grant(id="a", shape=shape, holdings=(Holding(card.id, 21),))
    book = Book(cells=(replace(card, foreign=1, display=1),), grants=(holder,))
    pool = grant_pool(book, holder)
    placed = place(pool, shape.requirement, pool.free)
    assert placed is not None
    assert placed.holdings == (Holding(card.id, 21),)

"""Explanations: the words of a waiting ticket, and of what can never be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prefect_slots.model.book import Book, CellId, CellState, Grant, Holding, Line, Nesting, Shape, Ticket
from prefect_slots.model.requirement import Requirement, declare
from prefect_slots.scheduling.explain import is_possible, is_stranded, largest, shortages


def _cell(resource: str, number: int, capacity: int, foreign: int = 0) -> CellState:
    return CellState(id=CellId(resource, number), capacity=capacity, foreign=foreign)


def _texts(book: Book, requirement: Requirement, ticket: str | None = None) -> list[str]:
    return [str(shortage) for shortage in shortages(book, requirement, ticket)]


CARDS = (_cell("gpu_mem", 0, 24576, 20480), _cell("gpu_mem", 1, 24576, 22528))


@pytest.mark.parametrize(
    ("cells", "words", "text"),
    [
        (CARDS, {"gpu_mem": 8}, "waits for 8192 MiB on one of 2 cards; gpu 0 has 4096 free, gpu 1 has 2048"),
        (
            CARDS,
            {"gpu_mem": 4, "gpus": 2},
            "waits for 4096 MiB on 2 of 2 cards; gpu 0 has 4096 free, gpu 1 has 2048",
        ),
        (CARDS[:1], {"gpu_mem": 8}, "waits for 8192 MiB on one card; gpu 0 has 4096 free"),
        (CARDS, {"gpus": 1}, "waits for all of one of 2 cards; gpu 0 has 4096 free, gpu 1 has 2048"),
        (CARDS[:1], {"gpus": 0.5}, "waits for 50 % of one card; gpu 0 has 4096 free"),
        ((_cell("mem", 0, 9000, 8000),), {"mem": 8}, "waits for 8GiB of mem; 1000 MiB free"),
        ((_cell("license.a", 0, 2, 2),), {"license": "a"}, "waits for 1 seat of license.a; 0 free"),
        (
            (_cell("scanner", 0, 1, 1), _cell("scanner", 1, 1, 1)),
            {"scanner": 1},
            "waits for 1 of scanner on one of 2 cells; scanner 0 has 0 free, scanner 1 has 0",
        ),
        ((), {"scanner": 1}, "waits for 1 of scanner; the machine has none now"),
        ((_cell("cpus", 0, 4, 6),), {"cpus": 1}, "waits for 1 of cpus; 0 free"),
    ],
)
def test_a_shortage_says_what_is_missing_where(cells: tuple[CellState, ...], words: dict[str, int], text: str) -> None:
    assert _texts(Book(cells=cells), declare(**words)) == [text]


def test_only_what_is_missing_is_said() -> None:
    cells = (_cell("cpus", 0, 4), _cell("mem", 0, 9000, 8000))
    assert _texts(Book(cells=cells), declare(cpus=4, mem=8)) == ["waits for 8GiB of mem; 1000 MiB free"]
    assert _texts(Book(cells=cells), declare(cpus=4)) == []


def _reserving(ticket: str, seq: int, amount: int, nesting: Nesting | None = None) -> Line:
    waits = Ticket(id=ticket, seq=seq, reserved=(Holding(CellId("cpus", 0), amount),))
    return Line(shape=Shape(requirement=declare(cpus=amount), nesting=nesting), tickets=(waits,))


def _busy(*lines: Line) -> Book:
    holder = Grant(id="h", shape=Shape(requirement=declare(cpus=1)), holdings=(Holding(CellId("cpus", 0), 1),))
    return Book(cells=(_cell("cpus", 0, 4),), grants=(holder,), lines=lines)


def test_what_is_set_aside_for_those_ahead_is_said_to_be() -> None:
    book = _busy(_reserving("first", 1, 4))
    assert _texts(book, declare(cpus=2)) == ["waits for 2 of cpus; 0 free (the rest is set aside for tickets ahead)"]


def test_what_is_set_aside_for_itself_or_for_those_behind_does_not_count() -> None:
    book = _busy(_reserving("first", 1, 4), _reserving("second", 2, 2))
    assert _texts(book, declare(cpus=4), "first") == ["waits for 4 of cpus; 3 free"]
    assert _texts(book, declare(cpus=2), "second") == [
        "waits for 2 of cpus; 0 free (the rest is set aside for tickets ahead)"
    ]


def test_what_a_stranded_ticket_reserved_is_free_for_all() -> None:
    book = Book(cells=(_cell("cpus", 0, 4, 2),), lines=(_reserving("first", 1, 4),))
    assert _texts(book, declare(cpus=2)) == []


def test_a_draw_is_looked_at_within_the_grant_it_draws_on() -> None:
    nesting = Nesting(ticket="n", parent="s", root="s", source="s")
    source = Grant(id="s", shape=Shape(requirement=declare(cpus=3)), holdings=(Holding(CellId("cpus", 0), 3),))
    drawn = Grant(
        id="d",
        shape=Shape(requirement=declare(cpus=2), nesting=Nesting(ticket="d", parent="s", root="s", source="s")),
        holdings=(Holding(CellId("cpus", 0), 2),),
    )
    waits = Line(shape=Shape(requirement=declare(cpus=2), nesting=nesting), tickets=(Ticket(id="n", seq=3),))
    book = Book(cells=(_cell("cpus", 0, 9, 5),), grants=(source, drawn), lines=(waits,))
    assert _texts(book, declare(cpus=2), "n") == ["waits for 2 of cpus; 1 free"]
    assert not is_stranded(book, declare(cpus=3), "n")
    assert is_stranded(book, declare(cpus=5))


def test_what_fits_an_idle_machine_is_possible_whoever_holds_it_now() -> None:
    assert is_possible(Book(cells=CARDS), declare(gpus=2))
    assert not is_possible(Book(cells=CARDS), declare(gpus=3))
    assert not is_possible(Book(cells=CARDS), declare(gpu_mem="24577MiB"))
    assert not is_possible(Book(cells=CARDS), declare(gpus=1, cpus=1))


def test_what_others_leave_too_little_for_is_stranded() -> None:
    assert is_stranded(Book(cells=CARDS), declare(gpu_mem=8))
    assert not is_stranded(Book(cells=CARDS), declare(gpu_mem=4))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"gpu_mem": 32}, "it has 2 cards, the largest is gpu 1 (NVIDIA B) with 24576 MiB"),
        ({"gpu_mem": 16, "gpus": 2}, "it has 2 cards, the largest is gpu 1 (NVIDIA B) with 24576 MiB"),
        ({"gpus": 1, "gpu": "C"}, "it has NVIDIA A, NVIDIA B of compute capability 8.6"),
        ({"gpus": 1, "gpu_capability": ">=9"}, "it has NVIDIA A, NVIDIA B of compute capability 8.6"),
        ({"gpu_mem": 16, "gpu": "nvidia a"}, "it has 1 such card, the largest is gpu 0 (NVIDIA A) with 8192 MiB"),
        ({"mem": 5}, "it has 4096 MiB of mem"),
        ({"scanner": 2}, "it has 1 of scanner on each of 2 cells at most"),
        ({"license": "a"}, "it has no license.a"),
        ({"cpus": 1, "mem": 5}, "it has 4096 MiB of mem"),
        ({"cpus": 1}, ""),
    ],
)
def test_the_largest_says_what_there_is_of_what_can_never_fit(words: dict[str, int], text: str) -> None:
    cells = (
        _cell("cpus", 0, 4),
        replace(_cell("gpu_mem", 0, 8192), label="NVIDIA A"),
        replace(_cell("gpu_mem", 1, 24576), label="NVIDIA B", compute_capability="8.6"),
        _cell("mem", 0, 4096),
        _cell("scanner", 0, 1),
        _cell("scanner", 1, 1),
    )
    assert largest(Book(cells=cells), declare(**words)) == text


def test_a_single_card_is_one_card() -> None:
    assert largest(Book(cells=CARDS[:1]), declare(gpu_mem=32)) == ("it has 1 card, the largest is gpu 0 with 24576 MiB")


def test_several_mig_instances_for_one_process_are_refused_with_the_reason() -> None:
    """C04."""
    book = Book(cells=tuple(replace(_cell("gpu_mem", number, 20480), lone=True) for number in (0, 1)))
    wanted = declare(gpu_mem=8, gpus=2)
    assert not is_possible(book, wanted)
    assert largest(book, wanted) == ("2 of its 2 cards are MIG instances, and a process can use one of these at most")
    assert "it has 2 cards, the largest" in largest(book, declare(gpu_mem=8, gpus=3))
    assert is_possible(book, declare(gpu_mem=8))

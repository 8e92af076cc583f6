"""Requirements: what the words of `requires(...)` mean, and what each mistake is told."""

from __future__ import annotations

import math
from typing import Any

import pytest

from prefect_slots.errors import InvalidRequirement
from prefect_slots.model.amount import Exclusive
from prefect_slots.model.requirement import WHOLE, Demand, Requirement, Share, declare


def _demands(**words: object) -> tuple[Demand, ...]:
    return declare(**words).demands


def test_the_words_become_sorted_demands() -> None:
    asked = declare(scanner=1, mem="4GiB", license={"matlab": 2}, gpu_mem=8, gpus=2, cpus=4)
    assert asked.demands == (
        Demand(resource="cpus", amount=4),
        Demand(resource="gpu_mem", amount=8192, cells=2),
        Demand(resource="license.matlab", amount=2),
        Demand(resource="mem", amount=4096),
        Demand(resource="scanner", amount=1),
    )
    assert asked.resources == ("cpus", "gpu_mem", "license.matlab", "mem", "scanner")


@pytest.mark.parametrize(("amount", "taken"), [(1, 24), (24, 24), (25, 25), (Share(WHOLE // 2), 24)])
def test_of_an_exclusive_cell_all_is_taken_and_never_less_than_was_asked_for(amount: int | Share, taken: int) -> None:
    assert Demand(resource="gpu_mem", amount=amount).on(Exclusive(24)) == taken


def test_equal_needs_are_equal_however_they_are_spelled() -> None:
    assert declare(gpu_mem=8) == declare(gpu_mem="8GiB") == declare(gpu_mem=8.0, gpus=1) == declare(gpus=1.0, gpu_mem=8)
    assert declare(license="a") == declare(license=["a"]) == declare(license={"a": 1}) == declare(license=("a",))
    assert declare(license=["a", "b"]) == declare(license={"b", "a"})
    assert hash(declare(mem=1, cpus=2)) == hash(declare(cpus=2, mem="1024MiB"))


def test_none_means_not_asked_for() -> None:
    assert declare(gpu_mem=None, mem=1, scanner=None) == declare(mem=1)


def test_cards_without_memory_are_whole_cards() -> None:
    assert _demands(gpus=2) == (Demand(resource="gpu_mem", amount=Share(WHOLE), cells=2),)
    assert _demands(gpus=1.0) == (Demand(resource="gpu_mem", amount=Share(WHOLE)),)


@pytest.mark.parametrize(
    ("gpus", "millionths"), [(0.25, 250_000), (0.07, 70_000), (0.57, 570_000), (1 / 3, 333_333), (1e-9, 1)]
)
def test_a_part_of_a_card_is_counted_in_millionths(gpus: float, millionths: int) -> None:
    assert _demands(gpus=gpus) == (Demand(resource="gpu_mem", amount=Share(millionths)),)


@pytest.mark.parametrize(
    ("words", "key", "reason"),
    [
        ({}, "", "nothing is asked for"),
        ({"mem": None}, "", "nothing is asked for"),
        ({"license": []}, "", "nothing is asked for"),
        ({"license": {}}, "", "nothing is asked for"),
        ({"gpu_mem": 0}, "gpu_mem", "above zero"),
        ({"gpu_mem": -8}, "gpu_mem", "above zero"),
        ({"gpu_mem": math.nan}, "gpu_mem", "finite"),
        ({"gpu_mem": True}, "gpu_mem", "True and False"),
        ({"mem": "8 GB of ram"}, "mem", "not an amount of memory"),
        ({"mem": [8]}, "mem", "list"),
        ({"cpus": 1.5}, "cpus", "whole number of cores"),
        ({"cpus": True}, "cpus", "whole number of cores"),
        ({"cpus": 0}, "cpus", "above zero"),
        ({"gpus": 0.25, "gpu_mem": 8}, "gpus", "leave gpu_mem out"),
        ({"gpus": 1.5}, "gpus", "whole number of cards, or a part"),
        ({"gpus": 0}, "gpus", "above zero"),
        ({"gpus": 0.0}, "gpus", "above 0"),
        ({"gpus": -0.5}, "gpus", "above 0"),
        ({"gpus": math.nan}, "gpus", "whole number of cards"),
        ({"gpus": math.inf}, "gpus", "whole number of cards"),
        ({"gpus": 1e300}, "gpus", "more than a limit can count"),
        ({"gpus": True}, "gpus", "whole number of cards"),
        ({"gpus": "all"}, "gpus", "whole number of cards"),
        ({"license": 2}, "license", "a name, a list of names"),
        ({"license": "mat/lab"}, "license", "may hold letters"),
        ({"license": ""}, "license", "may hold letters"),
        ({"license": {"matlab": 0.5}}, "license['matlab']", "whole number of seats"),
        ({"license": {"matlab": 0}}, "license['matlab']", "above zero"),
        ({"license": {"matlab": True}}, "license['matlab']", "whole number of seats"),
        ({"license": {"matlab": None}}, "license['matlab']", "whole number of seats"),
        ({"license": {1: 1}}, "license", "a string"),
        ({"license": ["a", "a"]}, "license", "stands twice"),
        ({"license": ["a", 1]}, "license", "a string"),
        ({"license": [["a"]]}, "license", "a string"),
        ({"license": [{"matlab": 1}]}, "license", "a string"),
        ({"scanner": "1"}, "scanner", "whole number of units"),
        ({"scanner": 0}, "scanner", "above zero"),
        ({"Scanner": 1}, "Scanner", "lower-case"),
        ({"tag": 1}, "tag", "a meaning of its own"),
        ({"resource": 1}, "resource", "a meaning of its own"),
    ],
)
def test_a_mistake_names_its_word_its_value_and_the_reason(words: dict[str, Any], key: str, reason: str) -> None:
    with pytest.raises(InvalidRequirement) as caught:
        declare(**words)
    assert caught.value.key == key
    assert reason in caught.value.reason
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"gpu_mem": 16}, "16GiB of gpu_mem on one card"),
        ({"gpu_mem": "500MiB", "gpus": 2}, "500MiB of gpu_mem on each of 2 cards"),
        ({"gpus": 1}, "1 whole card of gpu_mem"),
        ({"gpus": 2}, "2 whole cards of gpu_mem"),
        ({"gpus": 0.25}, "25 % of gpu_mem on one card"),
        ({"mem": 4}, "4GiB of mem"),
        ({"cpus": 4}, "4 of cpus"),
        ({"license": "matlab"}, "1 seat of license.matlab"),
        ({"license": {"matlab": 2}}, "2 seats of license.matlab"),
        ({"scanner": 1}, "1 of scanner"),
        ({"license": "a", "gpu_mem": 8}, "8GiB of gpu_mem on one card and 1 seat of license.a"),
    ],
)
def test_a_requirement_describes_itself(words: dict[str, Any], text: str) -> None:
    assert declare(**words).describe() == text


def test_a_demand_on_several_cells_says_so() -> None:
    assert Demand(resource="scanner", amount=2, cells=3).describe() == "2 of scanner on each of 3 cells"


@pytest.mark.parametrize(
    ("millionths", "capacity", "units"),
    [(WHOLE, 81559, 81559), (250_000, 81559, 20389), (500_000, 1, 1), (1, 1000, 1), (333_333, 24576, 8191)],
)
def test_a_share_is_rounded_down_but_never_to_nothing(millionths: int, capacity: int, units: int) -> None:
    assert Share(millionths).of(capacity) == units


@pytest.mark.parametrize("millionths", [0, -1, WHOLE + 1])
def test_a_share_lies_above_nothing_and_up_to_the_whole(millionths: int) -> None:
    with pytest.raises(ValueError, match="a share of a cell"):
        Share(millionths)


def test_a_demand_takes_its_amount_or_its_share_of_the_cell() -> None:
    assert Demand(resource="mem", amount=5).on(100) == 5
    assert Demand(resource="gpu_mem", amount=Share(500_000)).on(100) == 50


@pytest.mark.parametrize(("amount", "number"), [(0, 1), (-1, 1), (1, 0)])
def test_a_demand_is_for_something(amount: int, number: int) -> None:
    with pytest.raises(ValueError, match="at least one unit on at least one cell"):
        Demand(resource="mem", amount=amount, cells=number)


def test_demands_are_distinct_sorted_and_at_least_one() -> None:
    mem, cpus = Demand(resource="mem", amount=1), Demand(resource="cpus", amount=1)
    assert Requirement.of([mem, cpus]).demands == (cpus, mem)
    for wrong in ((), (mem, cpus), (mem, mem)):
        with pytest.raises(ValueError, match="sorted, distinct and at least one"):
            Requirement(wrong)


@pytest.mark.parametrize(
    "data",
    [
        [], [["mem", 1]], [["mem", "1", 1]], [["mem", {"seats": 1}, 1]], [["mem", True, 1]], [["mem", 0, 1]],
        [["mem", 1, 0]], [["mem", 1, "1"]], [[1, 1, 1]], [["mem", 1, 1], ["cpus", 1, 1]],
        [["mem", {"millionths": 0}, 1]],
        [["mem", {"millionths": "1"}, 1]], [7], 7, None, "mem",
    ],
)  # fmt: skip
def test_data_that_are_no_requirement_are_refused(data: Any) -> None:
    with pytest.raises(ValueError):
        Requirement.from_data(data)

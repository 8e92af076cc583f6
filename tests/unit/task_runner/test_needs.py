"""What a submitted task asks for: its decoration, the options around it, and who asks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from prefect import task

from prefect_slots import SlotTaskRunner, any_of, requires
from prefect_slots.errors import InvalidRequirement
from prefect_slots.model.terms import Terms
from prefect_slots.task_runner.needs import needs_of


def body(path: str) -> str:
    """Return its argument."""
    return path


def outer(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does more than `function`."""

    @functools.wraps(function)
    def more(*args: Any) -> Any:
        return ["more", function(*args)]

    return more


@pytest.mark.parametrize(
    "made", [task(requires(gpu_mem=8)(body)), requires(gpu_mem=8)(task(body))], ids=["below", "above"]
)
def test_a_decoration_is_asked_for_by_the_pool_and_taken_off(made: Any):
    asked, bare = needs_of(made)
    assert asked is not None
    assert asked.amounts == {"gpu_mem": 8}
    assert bare.fn is body
    assert (bare.task_key, bare.name) == (made.task_key, made.name)
    assert made.fn is not body


def test_a_task_that_asks_for_nothing_is_left_as_it_is():
    plain = task(body)
    assert needs_of(plain) == (None, plain)


def test_a_decoration_beneath_another_decorator_stays_where_it_is():
    hidden = task(outer(requires(gpu_mem=8)(body)))
    assert needs_of(hidden) == (None, hidden)


def test_options_are_over_the_decoration_and_over_options_further_out():
    made: Any = task(requires(gpu_mem=8, cpus=1, timeout=60, priority=1, expected_seconds=9)(body))
    with SlotTaskRunner.options(gpu_mem=4, timeout=5), SlotTaskRunner.options(gpu_mem=2, priority=3):
        asked, bare = needs_of(made)
    assert asked is not None
    assert asked.amounts == {"gpu_mem": 2, "cpus": 1}
    assert asked.terms == Terms(timeout=5.0, priority=3, expected_seconds=9)
    assert bare.fn is body
    after = needs_of(made).asked
    assert after is not None
    assert after.amounts == {"gpu_mem": 8, "cpus": 1}


def test_options_take_the_place_of_alternatives_that_name_the_same():
    made: Any = task(requires(any_of({"gpu_mem": 8}, {"cpus": 8}), scanner=1)(body))
    with SlotTaskRunner.options(gpu_mem=2):
        one = needs_of(made).asked
    with SlotTaskRunner.options(any_of({"scanner": 2}, {"cpus": 1})):
        other = needs_of(made).asked
    with SlotTaskRunner.options(mem=1):
        both = needs_of(made).asked
    assert one is not None
    assert other is not None
    assert both is not None
    assert one.amounts_of({}) == ({"scanner": 1, "gpu_mem": 2},)
    assert other.amounts_of({}) == ({"scanner": 2}, {"cpus": 1})
    assert both.amounts_of({}) == ({"scanner": 1, "mem": 1, "gpu_mem": 8}, {"scanner": 1, "mem": 1, "cpus": 8})


def test_options_that_are_no_requirement_are_refused_at_once():
    with pytest.raises(InvalidRequirement, match="gpu_mem"), SlotTaskRunner.options(gpu_mem="much"):
        pytest.fail("the block was entered")


def test_an_amount_by_attempt_is_asked_for_in_the_process():
    made: Any = task(requires(gpu_mem=lambda attempt: attempt)(body))
    asked, itself = needs_of(made)
    assert asked is None
    assert itself.fn is not body
    with SlotTaskRunner.options(gpu_mem=2):
        replaced = needs_of(made).asked
    assert replaced is not None
    assert replaced.amounts == {"gpu_mem": 2}

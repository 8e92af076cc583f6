"""The book: keys of shapes, chains of grants, what foreign use leaves."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest

from prefect_slots.model.book import CellId, CellState, Grant, Holding, Nesting, Shape
from prefect_slots.model.requirement import declare

SHAPE = Shape(requirement=declare(gpu_mem=8, cpus=2), priority=1)
NESTED = replace(SHAPE, nesting=Nesting(ticket="t2", parent="t1", root="t0", source=None))


@pytest.mark.parametrize(("capacity", "foreign", "left"), [(8, 0, 8), (8, 3, 5), (8, 8, 0), (8, 11, 0), (0, 0, 0)])
def test_what_others_use_is_not_ours_and_never_less_than_nothing(capacity: int, foreign: int, left: int) -> None:
    assert CellState(id=CellId("mem", 0), capacity=capacity, foreign=foreign).effective == left


def test_equal_shapes_have_equal_keys_in_every_process() -> None:
    again = Shape(requirement=declare(cpus=2, gpu_mem="8192MiB"), priority=1)
    assert again.key == SHAPE.key == '[[["cpus",2,1],["gpu_mem",8192,1]],1,null,null]'


@pytest.mark.parametrize(
    "other",
    [
        replace(SHAPE, priority=0),
        replace(SHAPE, expected=10.0),
        Shape(requirement=declare(gpu_mem=8, cpus=3), priority=1),
        Shape(requirement=declare(gpu_mem=8, gpus=2, cpus=2), priority=1),
        Shape(requirement=declare(gpus=1, cpus=2), priority=1),
        NESTED,
    ],
)
def test_different_shapes_have_different_keys(other: Shape) -> None:
    assert other.key != SHAPE.key


def test_a_nested_request_is_a_line_of_its_own() -> None:
    sibling = replace(NESTED, nesting=Nesting(ticket="t3", parent="t1", root="t0", source=None))
    assert sibling.key != NESTED.key


def test_a_key_once_read_stays_with_its_own_shape() -> None:
    assert json.loads(SHAPE.key)[1] == 1
    other = replace(SHAPE, priority=2)
    assert json.loads(other.key)[1] == 2
    assert pickle.loads(pickle.dumps(SHAPE)) == SHAPE
    assert hash(replace(SHAPE)) == hash(SHAPE)


def test_a_shape_is_served_by_the_machine_or_by_the_grant_it_draws_on() -> None:
    draw = replace(SHAPE, nesting=Nesting(ticket="t3", parent="t1", root="t0", source="t0"))
    assert (SHAPE.pool, NESTED.pool, draw.pool) == (None, None, "t0")


def test_the_root_of_a_grant_is_the_outermost_of_its_chain() -> None:
    holding = (Holding(CellId("cpus", 0), 2),)
    assert Grant(id="t1", shape=SHAPE, holdings=holding).root == "t1"
    assert Grant(id="t2", shape=NESTED, holdings=holding).root == "t0"

"""Law 8: the order is total and the same for every permutation; grouping by weight never breaks it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.property.effort import effort

from prefect_slots.model.registered import LimitUnit
from prefect_slots.model.resource import Scope
from prefect_slots.scheduling.canonical_order import calls, canonical_key, strictly_after
from prefect_slots.testing.strategies import limit_units

Place = tuple[Scope, str, int | None]

places = st.tuples(
    st.sampled_from(Scope), st.sampled_from(["gpu", "gpu_mem", "license.a", "mem"]), st.none() | st.integers(0, 12)
)


def _before(one: Place, other: Place) -> bool:
    """Say the order in words: this machine before the fleet, then by resource, the total before its cells."""
    if one[0] != other[0]:
        return one[0] is Scope.WORKER
    if one[1] != other[1]:
        return one[1] < other[1]
    if one[2] is None or other[2] is None:
        return one[2] is None and other[2] is not None
    return one[2] < other[2]


def _place(unit: LimitUnit) -> Place:
    return unit.scope, unit.resource, unit.cell


@effort(500)
@given(one=places, other=places, third=places)
def test_the_order_is_total(one: Place, other: Place, third: Place) -> None:
    first, second, last = canonical_key(*one), canonical_key(*other), canonical_key(*third)
    assert (first < second) + (second < first) + (first == second) == 1
    assert (first == second) == (one == other)
    assert (first < second) == _before(one, other)
    assert not (first < second < last) or first < last


@effort(500)
@given(units=limit_units(), data=st.data())
def test_every_permutation_of_a_request_makes_the_same_calls(units: list[LimitUnit], data: st.DataObject) -> None:
    assert calls(units) == calls(data.draw(st.permutations(units)))


@effort(500)
@given(units=limit_units())
def test_grouping_never_breaks_the_order(units: list[LimitUnit]) -> None:
    made = calls(units)
    flat = [unit for call in made for unit in call]
    assert sorted(map(_place, flat), key=str) == sorted(map(_place, units), key=str)
    assert all(_before(_place(one), _place(other)) for one, other in pairwise(flat))
    assert all(len({unit.weight for unit in call}) == 1 for call in made)
    assert all(one[0].weight != other[0].weight for one, other in pairwise(made)), "a call more than needed"


@effort(500)
@given(asked=st.lists(places, max_size=4), held=st.lists(places, max_size=4))
def test_the_nested_rule_uses_the_same_order(asked: list[Place], held: list[Place]) -> None:
    later = strictly_after([place[:2] for place in asked], [place[:2] for place in held])
    assert later == all(_before((*lower[:2], None), (*higher[:2], None)) for higher in asked for lower in held)


def test_a_unit_that_stands_twice_is_refused() -> None:
    unit = LimitUnit(scope=Scope.WORKER, resource="mem", cell=None, weight=1)
    with pytest.raises(ValueError, match="twice"):
        calls([unit, LimitUnit(scope=Scope.WORKER, resource="mem", cell=None, weight=2)])

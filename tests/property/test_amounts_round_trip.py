"""Law 10: parse(format(x)) == x, and rounding never under-counts what is asked nor over-counts what there is."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from tests.property.effort import effort

from prefect_slots.model.amount import (
    MAX_AMOUNT,
    MIB,
    bytes_available,
    format_amount,
    memory_asked,
    memory_available,
    memory_kept,
)
from prefect_slots.model.book import Shape
from prefect_slots.model.requirement import Requirement, Share, declare
from prefect_slots.testing.strategies import amounts, machines, requirements, shares

BYTES = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip


@effort(500)
@given(mib=amounts())
def test_what_is_printed_reads_back_as_the_same_number(mib: int) -> None:
    text = format_amount(mib, MIB)
    assert memory_asked(text) == memory_available(text) == memory_kept(text) == mib


@effort(500)
@given(
    number=st.decimals(min_value="0.001", max_value="99999", places=3, allow_nan=False),
    unit=st.sampled_from(sorted(BYTES)),
    space=st.sampled_from(["", " "]),
)
def test_a_size_is_never_asked_for_too_small_nor_offered_too_large(number: Decimal, unit: str, space: str) -> None:
    exact = Fraction(number) * BYTES[unit] / 2**20
    text = f"{number}{space}{unit}"
    if exact <= MAX_AMOUNT:
        assert exact <= memory_asked(text) < exact + 1
        if exact >= 1:
            assert exact - 1 < memory_available(text) <= exact


@effort(500)
@given(gib=st.floats(min_value=1e-6, max_value=1e6) | st.integers(1, 10**6))
def test_a_number_is_gib_and_rounds_the_same_way(gib: float) -> None:
    exact = Fraction(gib) * 1024
    assert exact <= memory_asked(gib) < exact + 1
    assert exact < 1 or exact - 1 < memory_available(gib) <= exact


@effort(500)
@given(count=st.integers(0, 2**50))
def test_bytes_are_offered_in_whole_mib(count: int) -> None:
    assert 0 <= count - bytes_available(count) * 2**20 < 2**20


@effort(500)
@given(parts=st.integers(2, 16), capacity=st.integers(64, 200_000))
def test_as_many_parts_of_a_card_fit_as_its_name_says(parts: int, capacity: int) -> None:
    # Four tasks with gpus=0.25 share a card of 81,559 MiB, although it is no multiple of four.
    (demand,) = declare(gpus=1 / parts).demands
    taken = demand.on(capacity)
    assert parts * taken <= capacity
    assert taken >= capacity // parts - 1


@effort(500)
@given(share=shares(), capacity=amounts())
def test_a_share_is_at_least_one_unit_and_never_more_than_the_cell(share: Share, capacity: int) -> None:
    assert 1 <= share.of(capacity) <= capacity


@effort(200)
@given(data=st.data())
def test_a_requirement_reads_back_from_its_data(data: st.DataObject) -> None:
    requirement = data.draw(requirements(data.draw(machines())))
    assert Requirement.from_data(requirement.to_data()) == requirement
    assert Requirement.of(reversed(requirement.demands)) == requirement


@effort(200)
@given(data=st.data(), priority=st.integers(-2, 2))
def test_shapes_have_equal_keys_only_when_they_are_equal(data: st.DataObject, priority: int) -> None:
    machine = data.draw(machines())
    one = Shape(requirement=data.draw(requirements(machine)), priority=priority)
    other = Shape(requirement=data.draw(requirements(machine)), priority=data.draw(st.integers(-2, 2)))
    assert (one.key == other.key) == (one == other)

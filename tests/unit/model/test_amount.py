"""Amounts: what is read, what is refused and with which words, what is printed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_slots.model.amount import (
    MAX_AMOUNT,
    MIB,
    SEATS,
    bytes_available,
    count_asked,
    duration_asked,
    format_amount,
    memory_asked,
    memory_available,
    memory_kept,
)


@pytest.mark.parametrize(
    ("value", "mib"),
    [
        (8, 8192), (0.5, 512), ("8GiB", 8192), ("8 gib", 8192), (" 512 MiB ", 512), ("8GB", 7630), ("1TiB", 2**20),
        ("1B", 1), ("0.0001GiB", 1), ("1.5GiB", 1536), ("1048577B", 2),
    ],
)  # fmt: skip
def test_memory_is_asked_in_mib_rounded_up(value: object, mib: int) -> None:
    assert memory_asked(value) == mib


def test_what_a_machine_has_is_rounded_down() -> None:
    assert memory_available("8GB") == 7629
    assert memory_available("2097151B") == 1
    assert bytes_available(2**30 - 1) == 1023
    assert bytes_available(0) == 0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "above zero"), (-1, "above zero"), ("0GiB", "above zero"), (math.nan, "finite"), (math.inf, "finite"),
        (True, "True and False"), ("8 GB of ram", "not an amount"), ("8", "not an amount"), ("", "not an amount"),
        ("-8GiB", "not an amount"), ("8XB", "not an amount"), ("1e3GiB", "not an amount"), (None, "NoneType"),
        ([8], "list"), (10**400, str(MAX_AMOUNT)), ("3000000GiB", str(MAX_AMOUNT)),
    ],
)  # fmt: skip
def test_what_is_no_amount_of_memory_is_refused_with_the_reason(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        memory_asked(value)


def test_less_than_one_mib_is_no_capacity() -> None:
    with pytest.raises(ValueError, match="less than one MiB"):
        memory_available("1023KiB")


@pytest.mark.parametrize(("value", "mib"), [(0, 0), ("0GiB", 0), ("1B", 1), (0.5, 512)])
def test_a_headroom_may_be_nothing_and_is_rounded_up(value: object, mib: int) -> None:
    assert memory_kept(value) == mib


def test_a_negative_headroom_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        memory_kept(-0.5)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "above zero"), (-2, "above zero"), (True, "not bool"), (1.0, "not float"), (0.5, "not float"),
        ("2", "not str"), (None, "not NoneType"), (MAX_AMOUNT + 1, "more than a limit can count"),
    ],
)  # fmt: skip
def test_only_whole_numbers_above_zero_count(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        count_asked(value, SEATS)


def test_the_largest_amount_is_what_a_limit_can_count() -> None:
    assert count_asked(MAX_AMOUNT, SEATS) == MAX_AMOUNT == 2**31 - 1


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [(8192, MIB, "8GiB"), (8191, MIB, "8191MiB"), (0, MIB, "0MiB"), (512, MIB, "512MiB"), (2, SEATS, "2 seats")],
)
def test_amounts_are_printed_in_the_largest_unit_that_loses_nothing(amount: int, unit: str, text: str) -> None:
    assert format_amount(amount, unit) == text


_SECONDS = st.floats(1e-6, 1e9)


@given(seconds=_SECONDS)
def test_a_word_is_stretched_by_little_and_never_cut(seconds: float) -> None:
    assert seconds <= duration_asked(seconds) <= 1.281 * seconds


@given(seconds=_SECONDS)
def test_what_is_rounded_stays(seconds: float) -> None:
    assert duration_asked(duration_asked(seconds)) == pytest.approx(duration_asked(seconds))


@given(one=_SECONDS, other=_SECONDS)
def test_who_says_more_is_taken_for_no_less(one: float, other: float) -> None:
    assert (one <= other) <= (duration_asked(one) <= duration_asked(other))


def test_a_thousand_words_about_an_hour_are_eleven_at_most() -> None:
    assert len({duration_asked(360 + 3.24 * number) for number in range(1000)}) <= 11

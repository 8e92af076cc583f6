"""Said durations: rounded up to few, and never by much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_slots.model.duration import rounded_up

_SECONDS = st.floats(1e-6, 1e9)


@given(seconds=_SECONDS)
def test_a_word_is_stretched_by_little_and_never_cut(seconds: float) -> None:
    assert seconds <= rounded_up(seconds) <= 1.281 * seconds


@given(seconds=_SECONDS)
def test_what_is_rounded_stays(seconds: float) -> None:
    assert rounded_up(rounded_up(seconds)) == pytest.approx(rounded_up(seconds))


@given(one=_SECONDS, other=_SECONDS)
def test_who_says_more_is_taken_for_no_less(one: float, other: float) -> None:
    assert (one <= other) <= (rounded_up(one) <= rounded_up(other))


def test_a_thousand_words_about_an_hour_are_eleven_at_most() -> None:
    assert len({rounded_up(360 + 3.24 * number) for number in range(1000)}) <= 11

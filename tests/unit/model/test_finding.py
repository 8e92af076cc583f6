"""What people are told holds nothing that a terminal or a log could not bear."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_slots.model.finding import Finding


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("two\nlines\r", r"two\nlines\r"),
        ("no UTF-8: \udcff", r"no UTF-8: \udcff"),
        ("caf\u00e9 \u00a0 [gpus]", "caf\u00e9 \u00a0 [gpus]"),
    ],
)
def test_what_cannot_be_printed_is_written_as_escapes(quoted: str, shown: str):
    finding = Finding(subject=quoted, problem=quoted, remedy=quoted)
    assert (finding.subject, finding.problem, finding.remedy) == (shown, shown, shown)


@given(st.text(st.characters()))
def test_any_text_can_be_told_in_one_line(text: str):
    told = Finding(subject="x", problem=text).problem
    assert "\n" not in told
    assert told.encode().decode() == told

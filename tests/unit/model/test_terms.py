"""Terms of a request: each wrong value is named, and no resource may be called as a term is."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

from prefect_slots.errors import InvalidRequirement
from prefect_slots.model.resource import check_resource_name
from prefect_slots.model.terms import Terms, check_seconds


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("timeout", wrong) for wrong in (-1, math.nan, math.inf, "5", True)],
        *[("expected_seconds", wrong) for wrong in (0, -1, math.nan, math.inf, "5", True)],
        *[("priority", wrong) for wrong in (0.5, False, None, "1")],
    ],
)
def test_a_term_out_of_its_range_is_named(name: str, value: object):
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(InvalidRequirement) as caught:
        Terms(**wrong)
    assert (caught.value.key, caught.value.value) == (name, repr(value))


def test_the_ends_of_the_ranges_are_terms():
    Terms(timeout=0, priority=-5, expected_seconds=1e-9)
    check_seconds(None)


@pytest.mark.parametrize("name", [field.name for field in fields(Terms)])
def test_no_resource_is_called_as_a_term_is(name: str):
    with pytest.raises(ValueError, match="meaning of its own"):
        check_resource_name(name)

"""A claim survives its Variable, and every machine has a Variable of its own."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_slots.errors import ConfigError
from prefect_slots.limits.claim import Claim, decode, encode, variable_name

machines = st.text(st.sampled_from("abAB01.-_"), min_size=1, max_size=12)
claims = st.builds(
    Claim,
    machine=machines,
    ledger_id=st.uuids().map(str),
    host=st.text(max_size=10),
    version=st.just("0.1.0"),
    limits=st.dictionaries(machines, st.integers(0, 2**31 - 1), max_size=5),
    cards=st.dictionaries(st.integers(0, 99), st.uuids().map(str), max_size=5),
    former=st.lists(st.uuids().map(str), max_size=2).map(tuple),
    owned=st.dictionaries(machines, st.datetimes(timezones=st.just(UTC)), max_size=2),
)


@given(claims)
def test_a_claim_is_read_back_as_written(claim: Claim) -> None:
    assert decode(json.loads(json.dumps(encode(claim)))) == claim


def test_a_declaration_without_an_offset_is_in_utc_and_one_that_is_no_time_is_nobody_s() -> None:
    value = encode(_many(1))
    claim = decode(value | {"owned": {"license:a": "2026-11-29T01:00:00"}})
    assert claim is not None
    assert claim.owned == {"license:a": datetime(2026, 11, 29, 1, tzinfo=UTC)}
    assert decode(value | {"owned": {"license:a": "yesterday"}}) is None


@given(machines, machines)
def test_no_two_machines_share_a_variable(one: str, two: str) -> None:
    assert (variable_name(one) == variable_name(two)) == (one == two)
    assert re.fullmatch(r"[a-z0-9_-]{1,255}", variable_name(one))


def _many(cards: int) -> Claim:
    return Claim(
        machine="dgx",
        ledger_id=str(uuid.uuid4()),
        host="dgx",
        version="0.1.0",
        limits={f"gpu-mem:dgx:{number}": 9856 for number in range(cards)},
        cards={number: f"MIG-{uuid.uuid4()}" for number in range(cards)},
    )


def test_the_claim_of_a_machine_with_very_many_cards_fits() -> None:
    claim = _many(112)
    value = encode(claim)
    assert len(json.dumps(value)) < 5000
    assert decode(value) == claim


def test_a_claim_that_cannot_fit_is_an_error_that_says_so() -> None:
    with pytest.raises(ConfigError, match="do not fit a Prefect Variable"):
        encode(_many(1000))


@pytest.mark.parametrize("value", [None, 3, "text", [], {}, {"packed": "!"}, {"machine": "m", "ledger": "x"}])
def test_anything_else_in_the_variable_is_no_claim(value: object) -> None:
    assert decode(value) is None

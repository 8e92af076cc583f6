"""Requests: the grant around them travels as a token, and only one with a requirement is put to a ledger."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import pytest

from prefect_slots.errors import InvalidRequirement
from prefect_slots.model.request import Parent, Request
from prefect_slots.model.requirement import declare


def test_a_token_names_the_enclosing_grant():
    parent = Parent("ledger", "grant")
    assert Parent.from_token(parent.token) == parent
    assert [Parent.from_token(nothing) for nothing in ("", ":", "ledger:", ":grant", "ledger")] == [None] * 5


def test_only_a_request_with_a_requirement_is_put_to_a_ledger():
    wanted = declare(cpus=1)
    assert Request(requirement=wanted).wanted == wanted
    with pytest.raises(ValueError, match="without a requirement"):
        _ = Request(label="infer").wanted


def test_parts_of_the_call_are_checked_when_they_are_filled_in():
    request = Request(requirement=declare(cpus=1), timeout=5, priority=1)
    with pytest.raises(InvalidRequirement, match="timeout"):
        replace(request, limit=math.inf)
    filled = replace(request, id="r", label="infer (x.py:1)", parent=Parent("l", "g"))
    assert (filled.timeout, filled.priority, filled.wanted) == (5, 1, request.wanted)
    assert pickle.loads(pickle.dumps(filled)) == filled

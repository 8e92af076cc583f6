"""Errors: each survives pickling and copying, says what to do next, and has its fields."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest

from prefect_slots import errors
from prefect_slots.errors import SlotsError, nearest

SAMPLES: dict[Any, Any] = {
    str: "sample",
    int: 403,
    float: 1.5,
    tuple[str, ...]: ("alpha", "beta"),
    str | None: "sample",
    int | None: 3,
    bool: True,
}
KINDS = sorted(
    (
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, SlotsError) and kind is not SlotsError
    ),
    key=lambda kind: kind.__name__,
)

REMEDIES = {
    "ConfigDiffers": "run `prefect-slots register --yes`",
    "GrantClosed": "keep the outer `requires` open",
    "GpuTaken": "Let both share one ledger",
    "GpusShared": "Let both share one ledger",
    "Impossible": "Ask for less",
    "LimitMissing": "`prefect-slots register` makes it",
    "NameDiffers": "`prefect-slots register --rename`",
    "NameTaken": "Give this machine its own name",
    "NotFoundYet": "See `prefect-slots detect --explain`",
    "NotRegistered": "Run `prefect-slots register`",
    "OutOfOrder": "Ask for everything in the outer `requires`",
    "RenameRefused": "Let them end",
    "ServerRefused": "Set PREFECT_API_KEY",
    "ServerUnreachable": "Start it with `prefect server start`",
    "StateFolderUnsuitable": "Set PREFECT_SLOTS_STATE_DIR",
    "TaskDied": "ask for more with `mem=`",
    "TaskTimeout": "a longer `timeout=`",
    "UnknownResource": "run `prefect-slots register`",
}


def _sample(kind: type[SlotsError]) -> SlotsError:
    hints = get_type_hints(kind)
    assert is_dataclass(kind)
    return kind(**{field.name: SAMPLES[hints[field.name]] for field in fields(kind)})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "travel",
    [
        *(lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol)) for protocol in range(2, 6)),
        copy.copy,
        copy.deepcopy,
    ],
)
def test_an_error_arrives_as_it_left(kind: type[SlotsError], travel: Any) -> None:
    error = _sample(kind)
    error.add_note("seen on the way")
    arrived = travel(error)
    assert type(arrived) is kind
    assert vars(arrived) == vars(error)
    assert str(arrived) == str(error)
    assert repr(arrived) == repr(error)


@pytest.mark.parametrize("kind", KINDS)
def test_the_message_is_made_from_the_fields(kind: type[SlotsError]) -> None:
    error = _sample(kind)
    assert is_dataclass(kind)
    names = [field.name for field in fields(kind)]
    values = [getattr(error, name) for name in names]
    assert any(str(value) in str(error) for value in values if not isinstance(value, tuple)) or "alpha, beta" in str(
        error
    )
    assert all(f"{name}=" in repr(error) for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_the_message_says_what_to_do_next_or_passes_on_who_says_it(kind: type[SlotsError]) -> None:
    error = _sample(kind)
    remedy = REMEDIES.get(kind.__name__)
    if remedy is not None:
        assert remedy in str(error)
    elif {"reason", "problem"} & vars(error).keys():
        assert str(error).endswith("sample")
    else:
        # It is told to a task that runs on; there is nothing to do but to know.
        assert kind is errors.LeaseLost


def test_a_conflict_of_numbers_alone_says_how_to_take_the_limit_over() -> None:
    assert "`prefect-slots register --adopt`" in str(errors.LimitConflict(name="mem:box", theirs=3, ours=4))


def test_errors_are_also_what_python_programs_catch() -> None:
    assert issubclass(errors.WaitTimeout, TimeoutError)
    assert issubclass(errors.InvalidRequirement, ValueError)
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.UnknownResource, LookupError)
    assert issubclass(errors.ServerUnreachable, ConnectionError)


def test_a_name_close_to_a_known_one_is_offered() -> None:
    assert nearest("matlb", ("matlab", "scanner")) == "did you mean matlab?"
    assert nearest("zzz", ("matlab", "scanner")) == "known: matlab, scanner"
    assert nearest("zzz", ()) == "nothing is registered here"

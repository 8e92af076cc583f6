"""Plainly valid settings are read without pydantic; what is accepted and what it becomes is what its schema says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_slots.settings import load_settings
from prefect_slots.settings.convert import table
from prefect_slots.settings.mistakes import FILE_MODEL, VARIABLES_MODEL, check
from prefect_slots.settings.schema import ConfigFile

LOAD = """\
import sys
from prefect_slots.settings import load_settings
print(load_settings(), 'pydantic' in sys.modules)
"""
FILE = """\
[settings]
hold_seconds = 3
[gpus]
exclude = ["GPU-1"]
[license.matlab]
seats = 2
"""

VALUES = st.one_of(
    st.sampled_from([
        0, 1, 2, -1, 1.5, 0.2, 86400, 86401, True, False, float("nan"), float("inf"), "", "a", "auto", "local", "8GiB",
        "/a", "fleet", "flexnet", "4000@lic", "//", "/dev/serial/by-id/a", [], ["a"], ["a", 1], [""], [{}], {},
        {"a": "b"},
    ]),
    st.integers(),
    st.text(max_size=3),
)  # fmt: skip


def tables(kind: type[Any]) -> st.SearchStrategy[dict[str, Any]]:
    keys = [name for name in kind.__dataclass_fields__ if name != "options"]
    return st.dictionaries(st.sampled_from(keys), VALUES, max_size=2)


def files() -> st.SearchStrategy[dict[str, Any]]:
    hints = {name: field.type for name, field in ConfigFile.__dataclass_fields__.items()}
    one = {name: hint for name, hint in hints.items() if hasattr(hint, "__dataclass_fields__")}
    many = {name: hint.__args__[1] for name, hint in hints.items() if name not in one}
    drawn = {name: tables(hint) for name, hint in one.items()}
    drawn |= {
        name: st.dictionaries(st.sampled_from(["a", "b"]), tables(hint), max_size=2) for name, hint in many.items()
    }
    return st.fixed_dictionaries({}, optional=drawn)


@given(files())
def test_a_file_is_read_if_the_schema_of_pydantic_takes_it(document: dict[str, Any]):
    try:
        FILE_MODEL.model_validate(document)
    except ValidationError:
        with pytest.raises(ValueError):
            table(ConfigFile, document)
    else:
        table(ConfigFile, document)


@given(
    st.sampled_from(sorted(VARIABLES_MODEL.model_fields)),
    st.sampled_from(
        ["", "0", "1", "7", "007", "2.5", "1e3", "1_0", " 4", "true", "Yes", "off", "nan", "local", "/a", "~", "x"]
    ),
)
def test_a_variable_means_what_the_schema_of_pydantic_says(key: str, text: str):
    env = {f"PREFECT_SLOTS_{key.upper()}": text}
    try:
        expected = check(None, b"", env)
    except ValueError:
        with pytest.raises(ValueError):
            load_settings(env=env, cwd=Path("/nonexistent"))
    else:
        assert load_settings(env=env, cwd=Path("/nonexistent")) == expected


def test_what_is_plainly_valid_needs_no_pydantic(tmp_path: Path):
    (tmp_path / "prefect-slots.toml").write_text(FILE)

    def load(**env: str) -> str:
        env = {"PREFECT_SLOTS_MAX_OVERTAKES": "7", "PREFECT_SLOTS_AUTO_REGISTER": "false", "WORKER_ID": "a"} | env
        command = [sys.executable, "-c", LOAD]
        return subprocess.run(command, env=env, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    plain = load()
    assert "max_overtakes=7" in plain
    assert plain.endswith("False\n")
    # Text that pydantic alone understands means the same.
    assert load(PREFECT_SLOTS_AUTO_REGISTER="off") == plain.replace("False\n", "True\n")


@pytest.mark.parametrize("variable", ["PREFECT_SLOTS_MAX_OVERTAKES", "prefect_slots_max_overtakes"])
def test_a_variables_name_may_be_in_lower_case(variable: str):
    assert load_settings(env={variable: "5"}, cwd=Path("/nonexistent")).max_overtakes == 5

"""Who decides: the mode that a setting means where the code runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.processes import ROOT

from prefect_slots.acquire.coordination import Coordination, coordinate
from prefect_slots.errors import ConfigError

ASK = """
import os, sys
from prefect_slots.acquire.coordination import coordinate
print(coordinate("auto", os.environ).url, "prefect" in sys.modules)
"""


def asked_in(folder: Path, **env: str) -> str:
    """Ask in a process that has not imported Prefect; returns the URL and whether Prefect was imported for it."""
    base = {"PATH": "", "HOME": str(folder), "PREFECT_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT / "src")}
    base["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=folder, env={**base, **env}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("mode", ["off", "local"])
def test_off_and_local_ask_for_no_server(mode: str) -> None:
    env = {"PREFECT_API_URL": "http://example.test/api"}
    assert coordinate(mode, env) == Coordination(mode)  # pyright: ignore[reportArgumentType]


def test_the_variable_is_enough_and_prefect_is_not_imported(tmp_path: Path) -> None:
    assert asked_in(tmp_path, PREFECT_API_URL="http://example.test/api") == "http://example.test/api False"


def test_with_nothing_that_could_hold_an_address_prefect_is_not_imported(tmp_path: Path) -> None:
    assert asked_in(tmp_path) == "None False"


def test_files_that_say_nothing_of_prefect_do_not_have_it_imported(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\ndependencies = ['prefect>=3']\n")
    (tmp_path / ".env").write_text("OTHER=1\n")
    assert asked_in(tmp_path) == "None False"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("home/profiles.toml", 'active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://profile.test/api"\n'),
        ("prefect.toml", '[api]\nurl = "http://profile.test/api"\n'),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "http://profile.test/api"\n'),
        (".env", "PREFECT_API_URL=http://profile.test/api\n"),
    ],
)
def test_an_address_in_any_of_prefect_s_files_is_found(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    assert asked_in(tmp_path) == "http://profile.test/api True"


def test_both_without_an_address_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"PREFECT_API_URL"):
        coordinate("both", {"PREFECT_HOME": str(tmp_path)})

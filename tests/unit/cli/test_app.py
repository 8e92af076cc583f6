"""The root of the command line: `--help` of each command with its examples, the list of commands, a closed pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def shown(*arguments: str) -> str:
    command = [sys.executable, "-m", "prefect_slots", *arguments, "--help"]
    return subprocess.run(
        command, env={**os.environ, "COLUMNS": "120"}, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("name", ["detect", "register", "status", "doctor", "run", "worker start", "demo"])
def test_a_command_shows_its_examples(name: str):
    text = shown(*name.split())
    assert "Examples" in text
    assert f"prefect-slots {name}" in text.split("Examples")[1]


def test_the_list_names_all_commands():
    text = shown()
    for name in ("detect", "register", "status", "doctor", "run", "worker", "demo"):
        assert f" {name} " in text


@pytest.mark.parametrize("command", [["detect", "--json"], ["detect"]], ids=" ".join)
def test_a_closed_pipe_ends_it_quietly(command: list[str], tmp_path: Path):
    reading, writing = os.pipe()
    os.close(reading)
    env = {**os.environ, "PREFECT_SLOTS_STATE_DIR": str(tmp_path / "state")}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "prefect_slots", *command],
            env=env,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert ended.stderr == ""
    assert ended.returncode == 1

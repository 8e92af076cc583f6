"""`--help`: every command shows its own words and examples; the list of commands is read without importing them."""

from __future__ import annotations

import os
import subprocess
import sys

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

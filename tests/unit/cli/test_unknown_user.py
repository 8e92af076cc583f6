"""Commands of a user without a name, a home and a known language, as in a container; foreign names at the server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.license_tools import Tool

UNKNOWN = 54321
TEXT = """\
Users of aa:  (Total of 3 licenses issued;  Total of 2 licenses in use)

  "aa" v1, vendor: acme
  floating license

    J\u00fcrgen desk (v1) (lic1/27000 101), start Mon 2/10 8:10
    \u0416 desk (v1) (lic1/27000 102), start Mon 2/10 8:10
"""


class Nobody:
    """Commands in a user namespace in which this process's user has an unknown number."""

    def __init__(self, folder: Path) -> None:
        self.tool = Tool(folder / "tool", text=TEXT)
        self._env = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "xx_YY.KOI8-R",
            "LANGUAGE": "de",
            "COLUMNS": "200",
            "PREFECT_SLOTS_CONFIG": str(folder / "slots.toml"),
        }
        self._folder = folder
        self._asks(self.tool.command)

    def asks_program(self, text: str) -> None:
        """Print a text by a program that no variable of Python's changes."""
        (self._folder / "text").write_text(text)
        self._asks(("sh", "-c", f"cat {self._folder / 'text'}"))

    def _asks(self, command: tuple[str, ...]) -> None:
        (self._folder / "slots.toml").write_text(
            f'[settings]\nstate_dir = "{self._folder / "state"}"\n[gpus]\ndetect = false\n'
            f'[license.aa]\ntype = "flexnet"\nserver = "1@a"\ncommand = {json.dumps(command)}\n'
        )

    def command(self, *arguments: str, **more: str) -> str:
        mapped = ["unshare", "--user", f"--map-user={UNKNOWN}", f"--map-group={UNKNOWN}"]
        argv = [*mapped, sys.executable, "-m", "prefect_slots", *arguments]
        done = subprocess.run(argv, env={**self._env, **more}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout


@pytest.fixture
def nobody(tmp_path: Path) -> Nobody:
    allowed = shutil.which("unshare") and subprocess.run(["unshare", "--user", "true"], check=False).returncode == 0
    if not allowed:
        pytest.skip("this machine allows no user namespaces")
    return Nobody(tmp_path)


@pytest.mark.slow
def test_c06_every_look_ends_with_its_numbers(nobody: Nobody):
    assert "the server has 3 seats, 2 in use" in nobody.command("detect", "--explain")
    (begun, *_) = nobody.tool.noted("begins")
    assert begun["language"] == "C"
    nobody.command("register")
    assert nobody.command("run", "--license", "aa", "--timeout", "20", "--", "echo", "ran").strip() == "ran"
    assert "2 seats" in nobody.command("detect")
    assert "looking at it failed" not in nobody.command("doctor")
    nobody.command("status", "--json")


def test_c06_letters_that_the_terminal_lacks_are_escaped(nobody: Nobody):
    terminal = {"PYTHONIOENCODING": "ascii", "PREFECT_SLOTS_SHOW_HOLDERS": "users"}
    nobody.asks_program(TEXT)
    assert "J\\xfcrgen" in nobody.command("detect", "--holders", **terminal)
    nobody.asks_program("Error getting status: Verbindung \u00fcber Netz fehlt. (-15,570)\n")
    assert "Verbindung \\xfcber" in nobody.command("detect", **terminal)

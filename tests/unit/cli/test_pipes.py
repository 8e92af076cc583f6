"""A reader that has seen enough, as `head` has: the command ends without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


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

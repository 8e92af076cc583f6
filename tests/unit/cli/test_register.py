"""`prefect-slots register` without a server: what would change, and what has changed, of each cell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.processes import SharedMachine

CONFIG = """
[gpus]
detect = false
[host]
mem = "64MiB"
[resources.scanner]
capacity = CAPACITY
"""


def register(box: SharedMachine, *options: str) -> str:
    command = [sys.executable, "-m", "prefect_slots", "register", *options]
    return subprocess.run(command, env=box.env, capture_output=True, text=True, check=True).stdout


def test_a_dry_run_tells_what_would_change_and_changes_nothing(tmp_path: Path):
    box = SharedMachine(tmp_path, CONFIG.replace("CAPACITY", "1"), worker="box")
    assert "scanner 0 (0) is new, with 1 units" in register(box)
    assert "scanner" not in register(box)
    (tmp_path / "prefect-slots.toml").write_text(CONFIG.replace("CAPACITY", "3"))
    for _ in range(2):
        told = register(box, "--dry-run")
        assert "scanner 0 (0) now has 3 units" in told
        assert "mem" not in told
        assert "box would be registered" in told
    assert box.all("SELECT capacity FROM cell WHERE resource='scanner'") == [(1,)]

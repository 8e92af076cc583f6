"""Two pools in two processes and commands beside them, on one ledger: never over-committed, by the tasks' own word."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.boxes import Box
from tests.support.processes import ROOT
from tests.support.records import overlaps


def play(folder: Path, tasks: int, commands: int) -> None:
    """Let two pools and some commands contend for one machine."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    box = Box(folder, None)
    box.env["PREFECT_SLOTS_COORDINATION"] = "local"
    box.register()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "WORKER_ID"))} | box.env
    names = [box.matlab, f"ansys-{box.name}"]
    pools = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.pooled", str(seed + n), str(tasks), str(folder), *names],
            env=env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    runs: list[subprocess.Popen[bytes]] = []
    for n in range(commands):
        record, holdings = folder / f"run-{n}.jsonl", json.dumps([[f"license.{names[1]}", 2], ["scanner", 1]])
        command = [sys.executable, "-m", "tests.support.pooled", str(record), holdings, "0.05"]
        asked = ["--license", f"{names[1]}=2", "--resource", "scanner=1"]
        runs.append(
            subprocess.Popen([sys.executable, "-m", "prefect_slots", "run", *asked, "--", *command], env=env, cwd=ROOT)
        )
    assert [run.wait(100) for run in runs] == [0] * commands
    assert [int(pool.communicate(timeout=200)[0]) for pool in pools] == [tasks] * 2
    records = {record: float("inf") for record in folder.glob("*.jsonl")}
    lines = sum(len(record.read_text().splitlines()) for record in records)
    assert lines == 2 * (2 * tasks + commands)
    capacity = {
        f"GPU-a-{box.name}": 24576,
        f"GPU-b-{box.name}": 24576,
        "mem": 8192,
        "cpus": 2,
        "scanner": 1,
        f"license.{box.matlab}": 2,
        f"license.ansys-{box.name}": 3,
    }
    assert overlaps(records, capacity) == []
    assert not box.in_use()
    assert box.rows("owner") == 0


def test_two_pools_and_commands_share_one_machine(tmp_path: Path) -> None:
    play(tmp_path, tasks=8, commands=1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_pools_and_commands_share_one_machine_for_long(tmp_path: Path) -> None:
    play(tmp_path, tasks=400, commands=12)

"""Many processes, five resources, random requirements, random kill -9: never over-committed, and nothing is left.

Over-commitment is judged by what the holders wrote down themselves, not by the ledger.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from tests.support.boxes import Box
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer
from tests.support.records import clock, overlaps

from prefect_slots import requires
from prefect_slots.acquire.engine import close_engine


class Crowd:
    """Processes that come, hold, and are killed; their records, and when each was killed."""

    def __init__(self, box: Box, folder: Path, seed: int, seconds: float) -> None:
        self._box = box
        self._folder = folder
        self._chance = random.Random(seed)
        self._until = clock() + seconds
        self.killed_at: dict[Path, float] = {}
        self.running: dict[Path, subprocess.Popen[str]] = {}
        self.granted = 0

    def start_one(self) -> None:
        record = self._folder / f"{len(self.killed_at) + len(self.running)}-{self._chance.random()}.jsonl"
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "WORKER_ID"))} | self._box.env
        left = max(0.5, self._until - clock())
        arguments = [str(self._chance.randrange(10**6)), str(left), str(record)]
        names = [self._box.matlab, f"ansys-{self._box.name}"]
        command = [sys.executable, "-m", "tests.support.stress", *arguments, *names]
        self.running[record] = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)

    def kill_one(self) -> None:
        """Kill a process that has been granted something at least once."""
        begun = [record for record in self.running if record.exists() and record.stat().st_size]
        if begun:
            record = self._chance.choice(begun)
            # What it held is free only after this moment, so counting it as free from here on accuses nobody falsely.
            self.killed_at[record] = clock()
            process = self.running.pop(record)
            process.kill()
            process.communicate()
            self.start_one()

    def stir(self, kill_every: float) -> None:
        """Kill and replace until the time is nearly up, then let everybody finish."""
        next_kill = clock() + kill_every
        # One is killed in any case: on a busy machine the start of all may take the whole time.
        while not self.killed_at or clock() < self._until - 1:
            moment = min(next_kill, self._until - 1)
            until(lambda now=moment: clock() >= now, 60)
            self.kill_one()
            next_kill = clock() + kill_every * (0.5 + self._chance.random())
        for process in self.running.values():
            out, _ = process.communicate(timeout=90)
            assert process.returncode == 0
            self.granted += int(out)


def stress(box: Box, folder: Path, processes: int, seconds: float, kill_every: float) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    box.register()
    crowd = Crowd(box, folder, seed, seconds)
    for _ in range(processes):
        crowd.start_one()
    try:
        crowd.stir(kill_every)
    finally:
        for process in crowd.running.values():
            process.kill()
            process.wait()
    records = {record: crowd.killed_at.get(record, float("inf")) for record in [*crowd.killed_at, *crowd.running]}
    lines = {record: killed for record, killed in records.items() if record.exists()}
    capacity = {
        f"GPU-a-{box.name}": 24576,
        f"GPU-b-{box.name}": 24576,
        "mem": 8192,
        "cpus": 2,
        "scanner": 1,
        f"license.{box.matlab}": 2,
        f"license.ansys-{box.name}": 3,
    }
    print(f"{crowd.granted} grants to survivors, {len(crowd.killed_at)} killed")
    assert crowd.granted
    assert crowd.killed_at
    assert overlaps(lines, capacity) == []
    # Whoever comes next clears up after those that were killed last; an answer that one of them was waiting for is
    # looked up once it has settled, for as long as somebody runs.
    os.environ.update(box.env)
    with temporary_settings({PREFECT_API_URL: box.url} if box.url else {}):
        with requires(cpus=2, mem=8, gpus=2, scanner=1, timeout=60):
            pass
        box.assert_nothing_is_left(60)
    close_engine()
    assert box.rows("owner") == 0


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_SLOTS_STATE_DIR", "PREFECT_SLOTS_CONFIG", "PREFECT_API_URL", "PREFECT_SLOTS_COORDINATION"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def local(box: Box) -> Box:
    box.env["PREFECT_SLOTS_COORDINATION"] = "local"
    return box


@pytest.mark.slow
def test_eight_processes_on_one_ledger(tmp_path: Path):
    stress(local(Box(tmp_path, None)), tmp_path, processes=8, seconds=8, kill_every=0.5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_eight_processes_on_one_ledger_for_a_minute(tmp_path: Path):
    stress(local(Box(tmp_path, None)), tmp_path, processes=8, seconds=60, kill_every=0.3)


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.xdist_group("server")
def test_processes_on_one_ledger_and_a_server(prefect_server: PrefectServer, tmp_path: Path):
    stress(Box(tmp_path, prefect_server.url), tmp_path, processes=4, seconds=12, kill_every=3)


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.xdist_group("server")
@pytest.mark.timeout(300)
def test_eight_processes_on_one_ledger_and_a_server_for_a_minute(prefect_server: PrefectServer, tmp_path: Path):
    stress(Box(tmp_path, prefect_server.url), tmp_path, processes=8, seconds=60, kill_every=2)

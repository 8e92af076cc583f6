"""The real worker through the wrapper: it registers the machine, runs real flow runs, and ends as it is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.boxes import Box
from tests.polling import until
from tests.prefect_server import PrefectServer

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("server")]

FLOW = """
import json, os, sys, time
from pathlib import Path
from prefect import flow, task
from prefect_slots import current_grant, requires

@task
@requires(gpu_mem=16)
def step(record: str):
    grant = current_grant()
    with open(record, "a") as file:
        file.write(json.dumps(["begin", grant.devices[0].uuid, os.environ["WORKER_ID"], time.monotonic()]) + "\\n")
    time.sleep(0.4)
    with open(record, "a") as file:
        file.write(json.dumps(["end", grant.devices[0].uuid, "", time.monotonic()]) + "\\n")

@flow
def pinned(record: str):
    step(record)
"""


class Worker:
    """A worker process of its own, started by `prefect-slots worker start`."""

    def __init__(self, box: Box, pool: str, *flags: str) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "WORKER_ID"))} | box.env
        command = [sys.executable, "-m", "prefect_slots", "worker", "start", "--pool", pool, *flags]
        self.log = box.config.parent / "worker.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=box.config.parent)

    def says(self, text: str) -> bool:
        assert self.process.poll() is None or text in self.log.read_text(), self.log.read_text()[-4000:]
        return text in self.log.read_text()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.fixture
def box(prefect_server: PrefectServer, tmp_path: Path) -> Box:
    return Box(tmp_path, prefect_server.url)


@pytest.fixture
def pool(box: Box) -> Iterator[str]:
    name = f"pool-{box.name}"
    body = {"name": name, "type": "process"}
    httpx.post(f"{box.url}/work_pools/", json=body, timeout=30).raise_for_status()
    yield name
    httpx.delete(f"{box.url}/work_pools/{name}", timeout=30)


def post(box: Box, path: str, body: dict[str, Any]) -> Any:
    answers: list[httpx.Response] = []

    def accepted() -> bool:
        # A busy SQLite server answers 503 without having applied anything.
        answers.append(httpx.post(f"{box.url}/{path}", json=body, timeout=30))
        return answers[-1].status_code != 503

    until(accepted, what=f"an answer to {path}")
    answers[-1].raise_for_status()
    return answers[-1].json()


def deploy(box: Box, pool: str) -> str:
    folder = box.config.parent
    (folder / "pinned.py").write_text(FLOW)
    flow = post(box, "flows/", {"name": f"pinned-{box.name}"})
    body = {
        "name": box.name,
        "flow_id": flow["id"],
        "work_pool_name": pool,
        "entrypoint": "pinned.py:pinned",
        "path": str(folder),
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}],
    }
    return str(post(box, "deployments/", body)["id"])


def test_a_worker_registers_runs_flows_within_the_cards_and_ends_on_sigterm(box: Box, pool: str, tmp_path: Path):
    record = tmp_path / "record"
    record.touch()
    deployment = deploy(box, pool)
    worker = Worker(box, pool, "--limit", "5")
    try:
        until(lambda: worker.says(f"{box.name} is registered with"), 60, what="registration")
        runs = [
            post(box, f"deployments/{deployment}/create_flow_run", {"parameters": {"record": str(record)}})["id"]
            for _ in range(5)
        ]

        def states() -> list[str]:
            return [httpx.get(f"{box.url}/flow_runs/{run}", timeout=30).json()["state_type"] for run in runs]

        until(lambda: set(states()) <= {"COMPLETED", "FAILED", "CRASHED"}, 110, what="the flow runs' end")
        assert states() == ["COMPLETED"] * 5, worker.log.read_text()[-6000:]
        names = [worker["name"] for worker in post(box, f"work_pools/{pool}/workers/filter", {})]
        assert names == [box.name]
        events = sorted((json.loads(row) for row in record.read_text().splitlines()), key=lambda event: event[3])
        held: list[str] = []
        for kind, card, worker_id, _ in events:
            if kind == "begin":
                assert card not in held, "two tasks of 16 GiB on one card of 24"
                assert worker_id == box.name
                held.append(card)
            else:
                held.remove(card)
        assert len(events) == 10
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(60) is not None
    finally:
        worker.stop()
    box.assert_nothing_is_left()
    assert box.rows("owner") == 0


def test_the_workers_exit_code_is_the_wrappers(box: Box):
    worker = Worker(box, f"no-such-pool-{box.name}", "--type", "no-such-type")
    try:
        assert worker.process.wait(90) == 1, worker.log.read_text()[-4000:]
    finally:
        worker.stop()
    assert "no-such-type" in worker.log.read_text()


def test_a_name_that_another_ledger_holds_starts_no_worker(box: Box, pool: str, tmp_path: Path):
    box.register()
    (tmp_path / "second").mkdir()
    second = Box(tmp_path / "second", box.url)
    second.config.write_text(box.config.read_text())
    worker = Worker(second, pool)
    try:
        assert worker.process.wait(60) == 1
    finally:
        worker.stop()
    assert f"the name '{box.name}' is claimed by another ledger" in worker.log.read_text()
    assert "--name" in worker.log.read_text()

"""The real worker through the wrapper: it registers the machine, runs real flow runs, and ends as it is told."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.support.boxes import Box
from tests.support.license_tools import Tool
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer
from tests.support.workers import Worker, deploy, post, state_of, trigger, work_pool

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


@pytest.fixture
def box(prefect_server: PrefectServer, tmp_path: Path) -> Box:
    return Box(tmp_path, prefect_server.url)


def has_limit(box: Box, name: str) -> bool:
    return httpx.get(f"{box.url}/v2/concurrency_limits/{name}", timeout=30).status_code == 200


@pytest.fixture
def pool(box: Box) -> Iterator[str]:
    with work_pool(box) as name:
        yield name


def test_a_worker_registers_runs_flows_within_the_cards_and_ends_on_sigterm(box: Box, pool: str, tmp_path: Path):
    record = tmp_path / "record"
    record.touch()
    deployment = deploy(box, pool, FLOW, "pinned")
    worker = Worker(box, pool, "--limit", "3")
    try:
        until(lambda: worker.says(f"{box.name} is registered with"), 60, what="registration")
        runs = [trigger(box, deployment, record=str(record)) for _ in range(3)]

        def states() -> list[str]:
            return [state_of(box, run) for run in runs]

        until(lambda: set(states()) <= {"COMPLETED", "FAILED", "CRASHED"}, 110, what="the flow runs' end")
        assert states() == ["COMPLETED"] * 3, worker.log.read_text()[-6000:]
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
        assert len(events) == 6
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(60) is not None
    finally:
        worker.stop()
    box.assert_nothing_is_left()
    assert box.rows("owner") == 0


@pytest.mark.slow
def test_the_workers_exit_code_is_the_wrappers(box: Box):
    worker = Worker(box, f"no-such-pool-{box.name}", "--type", "no-such-type")
    try:
        assert worker.process.wait(90) == 1, worker.log.read_text()[-4000:]
    finally:
        worker.stop()
    assert "no-such-type" in worker.log.read_text()


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_licence_server_that_hangs_keeps_no_worker_from_starting_and_is_believed_once_it_answers(
    box: Box, pool: str, tmp_path: Path
):
    feature = f"aa-{box.name}"
    tool = Tool(tmp_path / "tool", do="hang")
    table = {"type": "flexnet", "server": "27000@lic1", "command": list(tool.command), "timeout": 2, "poll_seconds": 30}
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
    box.config.write_text(f"{box.config.read_text()}\n[license.{feature}]\n{text}\n")
    box.env["PREFECT_SLOTS_REFRESH_SECONDS"] = "1"
    worker = Worker(box, pool)
    try:
        until(lambda: worker.says(f"{box.name} is registered with"), 60, what="registration")
        unknown = f"license.{feature}: the licence server 27000@lic1 did not answer within 2 s"
        assert worker.says(unknown), worker.log.read_text()
        assert not has_limit(box, f"license:{feature}")
        assert len(tool.noted("begins")) == 1, "its time limit is waited for once"
        tool.play(text=f"Users of {feature}:  (Total of 9 licenses issued;  Total of 4 licenses in use)\n")
        until(lambda: has_limit(box, f"license:{feature}"), 90, what="the limit of its seats")
        tool.play(do="hang")
        asked = len(tool.noted("hangs"))
        until(lambda: len(tool.noted("hangs")) > asked, 90, what="another try")
        assert has_limit(box, f"license:{feature}")
    finally:
        worker.stop()

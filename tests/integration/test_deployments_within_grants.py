"""Flow runs that a flow under a grant starts by `run_deployment` and awaits: they draw on that grant (C17)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.boxes import Box
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer
from tests.support.workers import Worker, deploy, state_of, trigger, work_pool

OUTER = """
from prefect import flow, task
from prefect.deployments import run_deployment
from prefect_slots import requires

def await_inner(inner, record, gpu_mem):
    run = run_deployment(inner, parameters={{"record": record, "gpu_mem": gpu_mem}}, poll_interval=0.2, timeout=60)
    assert run.state.is_completed(), run.state

@task
def await_in_a_task(inner, record, gpu_mem):
    await_inner(inner, record, gpu_mem)

@flow
def between(inner, record, gpu_mem):
    await_in_a_task(inner, record, gpu_mem)

@flow
@requires(gpu_mem=16)
def outer(inner: str, record: str, gpu_mem: int):
    {call}(inner, record, gpu_mem)
"""
INNER = """
import json, sqlite3, sys
from pathlib import Path
from prefect import flow
from prefect_slots import current_grant, requires

@flow
def inner(record: str, gpu_mem: int):
    try:
        with requires(gpu_mem=gpu_mem) as grant:
            Path(record).write_text(json.dumps([grant.devices[0].uuid, grant.devices[0].memory_mib]))
    except Exception as error:
        Path(record).write_text(json.dumps([type(error).__name__, str(error)]))
        raise
"""


ONE_CARD = """
[settings]
worker = "{name}"
[gpus]
detect = false
[[gpus.card]]
uuid = "GPU-{name}"
memory = "24GiB"
"""


def run_both(prefect_server: PrefectServer, folder: Path, call: str, gpu_mem: int) -> tuple[str, list[str | int]]:
    """Run the outer flow, which awaits the inner one; return its end and the record of the inner one."""
    box = Box(folder, prefect_server.url, ONE_CARD)
    record = folder / "record"
    with work_pool(box) as pool:
        inner = deploy(box, pool, INNER, "inner")
        worker = Worker(box, pool)
        try:
            until(lambda: worker.says("is registered with"), 60, what="registration")
            run = trigger(
                box,
                deploy(box, pool, OUTER.format(call=call), "outer"),
                inner=inner,
                record=str(record),
                gpu_mem=gpu_mem,
            )
            until(lambda: state_of(box, run) in ("COMPLETED", "FAILED", "CRASHED"), 110, what="the flow run's end")
            assert record.exists(), worker.log.read_text()[-6000:]
            return state_of(box, run), json.loads(record.read_text())
        finally:
            worker.stop()
            box.assert_nothing_is_left()


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.xdist_group("server")
@pytest.mark.parametrize("call", ["await_inner", "between"])
def test_an_awaited_deployment_draws_on_the_grant_of_the_flow_that_awaits_it(
    prefect_server: PrefectServer, tmp_path: Path, call: str
):
    state, (_, granted) = run_both(prefect_server, tmp_path, call, 16)
    assert (state, granted) == ("COMPLETED", 16384)


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.xdist_group("server")
def test_an_awaited_deployment_that_its_waiting_parent_leaves_no_room_for_fails_at_once(
    prefect_server: PrefectServer, tmp_path: Path
):
    state, (error, text) = run_both(prefect_server, tmp_path, "await_inner", 20)
    assert (state, error) == ("FAILED", "OutOfOrder")
    assert "outer" in str(text)

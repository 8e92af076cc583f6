"""`.delay()`: a background task runs in a task worker of its own, under its grant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.boxes import Box
from tests.support.prefect_server import PrefectServer

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("server")]

TASKS = """
import sys
from prefect import task
from prefect.task_worker import serve
from prefect_slots import current_grant, requires

def make_double():
    @task(name="work", persist_result=True)
    @requires(gpu_mem=8)
    def work(i):
        return [i * 2, current_grant().amounts]
    return work

def make_triple():
    @task(name="work", persist_result=True)
    @requires(gpu_mem=8)
    def work(i):
        return [i * 3, current_grant().amounts]
    return work

double, triple = make_double(), make_triple()

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(double, triple)
    else:
        futures = [double.delay(5), triple.delay(5)]
        print([future.result(timeout=60) for future in futures])
"""


def test_a_delayed_task_runs_under_its_grant_in_a_task_worker(prefect_server: PrefectServer, tmp_path: Path):
    box = Box(tmp_path, prefect_server.url)
    box.register()
    script = tmp_path / "tasks.py"
    script.write_text(TASKS)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "WORKER_ID"))} | box.env
    worker = subprocess.Popen([sys.executable, str(script), "serve"], env=env, stdout=subprocess.DEVNULL)
    try:
        done = subprocess.run(
            [sys.executable, str(script), "ask"], env=env, capture_output=True, text=True, timeout=100, check=False
        )
    finally:
        worker.terminate()
        worker.wait(30)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "[[10, {'gpu_mem': 8192}], [15, {'gpu_mem': 8192}]]"
    box.assert_nothing_is_left()

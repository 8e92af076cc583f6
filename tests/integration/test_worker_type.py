"""The worker type `slots-process`: plain `prefect worker start` finds it, and its machine is registered and kept so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest
from tests.support.boxes import Box, tell
from tests.support.nvml_stub.library import build
from tests.support.nvml_stub.machines import GPU_IS_LOST, FakeDevice, Machine
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer
from tests.support.workers import Worker, deploy, post, state_of, trigger, work_pool

ROOT = Path(__file__).parents[2]
TYPE = "slots-process"
FIND = """
from prefect.cli._worker_utils import _load_worker_class
print(_load_worker_class("slots-process").__module__)
"""
FLOW = """
import json, os
from pathlib import Path
from prefect import flow, task
from prefect_slots import current_grant, requires

@task
@requires(gpu_mem=16)
def step(record: str):
    told = [current_grant().devices[0].uuid, os.environ["WORKER_ID"], os.environ["PREFECT__WORKER_NAME"]]
    Path(record).write_text(json.dumps(told))

@flow
def pinned(record: str):
    step(record)
"""
HOLD = """
import sys
from prefect_slots import requires
with requires(gpu_mem=1) as grant:
    print(grant.devices[0].uuid, flush=True)
    sys.stdin.readline()
"""
DETECTED = """
[settings]
worker = "{name}"
[host]
cpus = 1
mem = "1GiB"
"""


def installed(folder: Path) -> str:
    """Return a path on which this package's collection is found, as if it were installed."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    info = folder / "prefect_slots_here-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: prefect-slots-here\nVersion: 1.0\n")
    lines = [f"{name} = {module}" for name, module in groups["prefect.collections"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[prefect.collections]", *lines, ""]))
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def test_prefect_finds_the_type_by_the_collection(tmp_path: Path):
    env = {**os.environ, "PYTHONPATH": installed(tmp_path / "site")}
    child = subprocess.run([sys.executable, "-c", FIND], env=env, capture_output=True, text=True, check=True)
    assert child.stdout == "prefect_slots.worker.process_worker\n"


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.xdist_group("server")
@pytest.mark.parametrize("flags", [(), ("--name", "other")], ids=["of the machine's name", "with a name of its own"])
def test_a_worker_of_this_type_registers_its_machine_and_runs_flows_on_it(
    prefect_server: PrefectServer, tmp_path: Path, flags: tuple[str, ...]
):
    box = Box(tmp_path, prefect_server.url)
    box.env["PYTHONPATH"] = installed(tmp_path / "site")
    box.env["PREFECT_LOGGING_LEVEL"] = "INFO"
    with work_pool(box, TYPE) as pool:
        # The machine was registered by its own name before, and keeps it.
        box.register()
        deployment = deploy(box, pool, FLOW, "pinned")
        worker = Worker(box, pool, "--type", TYPE, *flags, program="prefect")
        try:
            until(lambda: worker.says(f"{box.name} is registered with"), 60, what="registration")
            run = trigger(box, deployment, record=str(tmp_path / "record"))
            until(lambda: state_of(box, run) in ("COMPLETED", "FAILED", "CRASHED"), 110, what="the flow run's end")
            assert state_of(box, run) == "COMPLETED", worker.log.read_text()[-6000:]
            name = flags[1] if flags else box.name
            card, worker_id, told = json.loads((tmp_path / "record").read_text())
            assert (worker_id, told) == (box.name, name)
            assert card in (f"GPU-a-{box.name}", f"GPU-b-{box.name}")
            assert [found["name"] for found in post(box, f"work_pools/{pool}/workers/filter", {})] == [name]
            worker.process.send_signal(signal.SIGTERM)
            assert worker.process.wait(60) is not None
        finally:
            worker.stop()
    box.assert_nothing_is_left()
    assert box.rows("owner") == 0


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.xdist_group("server")
@pytest.mark.parametrize(
    ("program", "kind"), [("prefect_slots", "process"), ("prefect", TYPE)], ids=["the wrapper", "the type"]
)
def test_what_becomes_of_the_cards_reaches_ledger_server_and_log_while_the_worker_runs(
    prefect_server: PrefectServer, tmp_path: Path, program: str, kind: str
):
    box = Box(tmp_path, prefect_server.url, DETECTED)
    a, b = (FakeDevice(uuid=f"GPU-{letter}-{box.name}", reserved=0) for letter in "ab")
    told = tmp_path / "driver"

    def driver_tells(*cards: FakeDevice, hang: int = 0) -> None:
        new = tmp_path / "driver.new"
        new.write_text(Machine(cards=cards, hang=hang).text())
        new.replace(told)

    def limit() -> int | None:
        answer = httpx.get(f"{box.url}/v2/concurrency_limits/gpu-mem:{box.name}", timeout=30)
        return answer.json().get("limit")

    (tmp_path / "nvml").mkdir()
    library = build(tmp_path / "nvml")
    driver_tells(a, b)
    box.env |= {
        "LD_LIBRARY_PATH": str(library / "new"),
        "NVML_STUB_FILE": str(told),
        "PREFECT_SLOTS_REFRESH_SECONDS": "1",
        "PREFECT_SLOTS_DETECT_SECONDS": "1",
        "PYTHONPATH": installed(tmp_path / "site"),
        "PREFECT_LOGGING_LEVEL": "INFO",
    }
    with work_pool(box, kind) as pool:
        worker = Worker(box, pool, "--type", kind, program=program)
        try:
            until(lambda: worker.says(f"{box.name} is registered with"), 60, what="registration")
            assert limit() == 2 * 24576
            with box.start(HOLD) as holder:
                assert holder.stdout is not None
                first, second = (a, b) if holder.stdout.readline().strip() == a.uuid else (b, a)
                driver_tells(FakeDevice(handle_error=GPU_IS_LOST), second)
                until(lambda: worker.says("is broken; nothing more is granted there"), 60, what="news of the card")
                until(lambda: worker.says(f"(process {holder.pid}) holds 1GiB of it"), 20, what="its holder's name")
                assert limit() == 2 * 24576, "who waits for it is not refused for ever"
                assert [box.run(HOLD).strip() for _ in range(2)] == [second.uuid] * 2
                tell(holder)
                assert holder.wait(30) == 0
            driver_tells(first, second)
            until(lambda: worker.says("is back, with 24GiB"), 60, what="news that it is back")
            driver_tells(first, second, hang=4)
            until(lambda: worker.says("looking at NVIDIA's cards did not answer within 1 s"), 60, what="a hanging look")
            assert limit() == 2 * 24576, "what cannot be told is not zero"
            driver_tells(first)
            until(lambda: worker.says("is gone; nothing more is granted there"), 60, what="news that it is gone")
            until(lambda: limit() == 24576, 30, what="the limit of one card")
            driver_tells(FakeDevice(uuid=first.uuid, reserved=0, total=48 * 2**30))
            until(lambda: worker.says("now has 48GiB"), 60, what="news of more memory")
            until(lambda: limit() == 49152, 30, what="the limit of a larger card")
            driver_tells(hang=3600)
            until(lambda: worker.log.read_text().count("did not answer within") > 1, 60, what="a look that hangs")
            worker.process.send_signal(signal.SIGTERM)
            assert worker.process.wait(30) is not None
        finally:
            worker.stop()
    box.assert_nothing_is_left()

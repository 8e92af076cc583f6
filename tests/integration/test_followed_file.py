"""A running worker follows its file, and declared numbers of the fleet follow their owner, on a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import httpx
import pytest
from tests.support.boxes import Box
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer
from tests.support.workers import Worker, work_pool

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.xdist_group("server")]

CONFIG = """
[settings]
worker = "{name}"
[gpus]
detect = false
[host]
cpus = 2
mem = "8GiB"
[license.FEATURE]
seats = SEATS
"""


def command(box: Box, *words: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "WORKER_ID"))} | box.env
    line = [sys.executable, "-m", "prefect_slots", *words]
    folder = box.config.parent
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=120, cwd=folder, check=False)


def offered(box: Box, resource: str) -> int:
    shown = json.loads(command(box, "status", "--json").stdout)
    return next(cell["capacity"] for cell in shown["cells"] if cell["resource"] == resource)


def number(box: Box, name: str) -> int:
    return httpx.get(f"{box.url}/v2/concurrency_limits/{name}", timeout=30).raise_for_status().json()["limit"]


def test_a_worker_rereads_its_file_and_the_fleet_keeps_to_the_owner_s_number(
    prefect_server: PrefectServer, tmp_path: Path
) -> None:
    feature = f"f{uuid.uuid4().hex[:8]}"
    name, resource = f"license:{feature}", f"license.{feature}"
    boxes: list[Box] = []
    for folder, seats in (("owner", "2"), ("other", "3")):
        (tmp_path / folder).mkdir()
        config = CONFIG.replace("FEATURE", feature).replace("SEATS", seats)
        boxes.append(Box(tmp_path / folder, prefect_server.url, config))
    owner, other = boxes
    owner.env["PREFECT_SLOTS_REFRESH_SECONDS"] = "1"
    with work_pool(owner) as pool:
        worker = Worker(owner, pool)
        try:
            until(lambda: worker.says(f"{owner.name} is registered with"), 90, what="registration")
            joined = command(other, "register")
            assert joined.returncode == 0, joined.stderr
            assert f"declared by '{owner.name}'" in " ".join(joined.stdout.split())
            assert number(owner, name) == 2
            assert offered(other, resource) == 2
            text = owner.config.read_text()
            line = text.split("\n").index("seats = 2") + 1
            # A wrong edit is said with its place and changes nothing.
            owner.config.write_text(text.replace("seats = 2", "seats = -2"))
            until(lambda: worker.says(f"{owner.config}:{line}: license.{feature}.seats: "), 60, what="the mistake")
            assert worker.says("the configuration stays as it was")
            assert number(owner, name) == 2
            owner.config.write_text(text.replace("seats = 2", "seats = 4"))
            until(lambda: number(owner, name) == 4, 60, what="the owner's new number")
            assert worker.log.read_text().count(f"{owner.config}:{line}: license.{feature}.seats: 2 is 4 now") == 1
            assert command(other, "register").returncode == 0
            assert offered(other, resource) == 4
            assert command(other, "register", "--adopt").returncode == 0
            assert number(other, name) == 3
            until(lambda: worker.says(f"declared by '{other.name}'"), 60, what="a line about the new owner")
            until(lambda: offered(owner, resource) == 3, 60, what="the new owner's number")
            assert number(other, name) == 3
        finally:
            worker.stop()


def test_a_second_worker_of_another_name_starts_on_a_machine_that_has_one(
    prefect_server: PrefectServer, tmp_path: Path
) -> None:
    box = Box(tmp_path, prefect_server.url)
    box.register()
    with work_pool(box) as pool:
        worker = Worker(box, pool, "--name", "second")
        try:
            until(lambda: worker.says(f"{box.name} is registered with"), 90, what="registration")
            assert worker.says(f"the worker is called 'second'; this machine stays '{box.name}'")
        finally:
            worker.stop()


def test_a_machine_is_renamed_with_its_limits(prefect_server: PrefectServer, tmp_path: Path) -> None:
    box = Box(tmp_path, prefect_server.url, CONFIG.replace("FEATURE", "x-{name}").replace("SEATS", "1"))
    box.register()
    old, new = box.name, f"{box.name}-new"
    refused = command(box, "register", "--name", new)
    assert refused.returncode == 1
    assert "--rename" in refused.stderr
    renamed = command(box, "register", "--rename", "--name", new)
    assert renamed.returncode == 0, renamed.stderr
    assert number(box, f"cpus:{new}") == 2
    assert httpx.get(f"{box.url}/v2/concurrency_limits/cpus:{old}", timeout=30).status_code == 404
    # The old name is free for another machine.
    (tmp_path / "second").mkdir()
    second = Box(tmp_path / "second", box.url, CONFIG.replace("FEATURE", "y-{name}").replace("SEATS", "1"))
    second.config.write_text(second.config.read_text().replace(second.name, old))
    assert command(second, "register").returncode == 0

"""A grant of GPU memory asks the driver after more than a second, though the monitor looks once a minute."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.card_scene import CONFIG, CardScene, stranger
from tests.support.nvml_stub.library import build
from tests.support.nvml_stub.machines import GIB, FakeProcess
from tests.support.polling import until
from tests.support.processes import Puppet


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def scene(tmp_path: Path, library: Path) -> CardScene:
    made = CardScene(tmp_path, library, CONFIG.replace("use_seconds = 0.2", "use_seconds = 60"))
    made.on_card()
    return made


@pytest.fixture
def puppet(scene: CardScene) -> Iterator[Puppet]:
    with Puppet(scene.machine) as made:
        assert "granted" in made.enter(gpu_mem=1)
        made.leave()
        yield made


def grows_old(scene: CardScene) -> float:
    """Wait until the last look is older than a second; return its time."""
    looked_at = scene.seen()["seen_at"]
    until(lambda: time.time() - looked_at > 1.05, what="an old look")
    return looked_at


def test_a_request_of_the_same_process_and_of_a_fresh_one(scene: CardScene, puppet: Puppet):
    grows_old(scene)
    with stranger() as other, Puppet(scene.machine) as fresh:
        scene.on_card(FakeProcess(pid=other, memory=20 * GIB))
        assert puppet.enter(gpu_mem=8, timeout=0)["error"] == "WaitTimeout"
        assert scene.foreign() == 20 * 1024
        grows_old(scene)
        scene.on_card(FakeProcess(pid=other, memory=10 * GIB))
        assert fresh.enter(gpu_mem=15, timeout=0)["error"] == "WaitTimeout"
        assert scene.foreign() == 10 * 1024


@pytest.mark.parametrize("how", ["leaves", "ends", "is killed"])
def test_a_release_that_a_request_waits_for(scene: CardScene, puppet: Puppet, how: str):
    with stranger() as other, Puppet(scene.machine) as holder, Puppet(scene.machine) as waiter:
        assert "granted" in holder.enter(gpu_mem=20)
        waiter.ask(gpu_mem=16)
        scene.machine.waiting(1)
        grows_old(scene)
        scene.on_card(FakeProcess(pid=other, memory=16 * GIB))
        {"leaves": holder.leave, "ends": holder.end, "is killed": holder.kill}[how]()
        until(lambda: scene.machine.count("held") == 0, what="the holder's cells free")
        assert scene.foreign() == 16 * 1024
        assert waiter.silent
        assert scene.machine.count("ticket") == 1
        waiter.kill()


def test_a_command_that_ends(scene: CardScene, puppet: Puppet):
    command = [sys.executable, "-m", "prefect_slots", "run", "--gpu-mem", "20", "--", "cat"]
    with (
        stranger() as other,
        Puppet(scene.machine) as waiter,
        subprocess.Popen(command, env=scene.machine.env, stdin=subprocess.PIPE) as run,
    ):
        until(lambda: scene.machine.count("held") == 1, what="the command's grant")
        waiter.ask(gpu_mem=16)
        scene.machine.waiting(1)
        grows_old(scene)
        scene.on_card(FakeProcess(pid=other, memory=16 * GIB))
        run.communicate(timeout=30)
        assert (scene.foreign(), waiter.silent) == (16 * 1024, True)
        waiter.kill()


def test_no_look_for_what_needs_no_gpu_or_while_the_last_one_is_fresh(scene: CardScene, puppet: Puppet):
    looked_at = grows_old(scene)
    assert "granted" in puppet.enter(cpus=1)
    puppet.leave()
    assert scene.seen()["seen_at"] == looked_at
    assert "granted" in puppet.enter(gpu_mem=1)
    puppet.leave()
    looked_at, began = scene.seen()["seen_at"], time.time()
    assert "granted" in puppet.enter(gpu_mem=1)
    assert scene.seen()["seen_at"] == looked_at or time.time() - began > 1


def test_a_driver_that_hangs_holds_up_no_grant_and_the_last_number_stands(scene: CardScene, puppet: Puppet):
    grows_old(scene)
    scene.tell(hang=3600)
    began = time.monotonic()
    for _ in range(5):
        assert "granted" in puppet.enter(gpu_mem=1)
        puppet.leave()
    # Five times 50 ms, and what a busy machine adds.
    assert time.monotonic() - began < 5
    assert (scene.foreign(), scene.seen()["misses"]) == (0, 0)

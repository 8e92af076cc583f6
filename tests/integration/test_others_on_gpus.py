"""Cards that strangers use too, told by a real NVML library while real tasks hold and wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.card_scene import CardScene, stranger
from tests.support.nvml_stub.library import build
from tests.support.nvml_stub.machines import GIB, UNTOLD, FakeProcess
from tests.support.polling import until
from tests.support.processes import Puppet


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def scene(tmp_path: Path, library: Path) -> CardScene:
    return CardScene(tmp_path, library)


@pytest.fixture
def puppet(scene: CardScene) -> Iterator[Puppet]:
    """A process that takes part, so that somebody looks."""
    with Puppet(scene.machine) as made:
        yield made


def test_the_first_task_on_a_machine_waits_for_what_a_stranger_uses_and_runs_when_that_is_gone(scene: CardScene):
    with stranger() as other, Puppet(scene.machine) as task:
        scene.on_card(FakeProcess(pid=other, memory=20 * GIB))
        task.ask(gpu_mem=8)
        scene.machine.waiting(1)
        assert scene.foreign() == 20 * 1024
        scene.on_card(FakeProcess(pid=other, memory=17 * GIB))
        scene.until_foreign(17 * 1024)
        assert task.silent
        scene.on_card()
        assert task.reply()["granted"] == {"gpu_mem": 8192}


def test_what_our_own_processes_use_is_reserved_already_and_not_taken_off_again(scene: CardScene, puppet: Puppet):
    scene.on_card()
    assert "granted" in puppet.enter(gpu_mem=10)
    with stranger() as other, Puppet(scene.machine) as second:
        ours = FakeProcess(pid=puppet.process.pid, memory=9 * GIB)
        scene.on_card(ours, FakeProcess(pid=other, memory=2 * GIB))
        scene.until_foreign(2 * 1024)
        assert "granted" in second.enter(gpu_mem=12)
        scene.on_card(ours, FakeProcess(pid=other, memory=3 * GIB))
        scene.until_foreign(3 * 1024)
        with Puppet(scene.machine) as third:
            third.ask(gpu_mem=1)
            scene.machine.waiting(1)
            scene.on_card(ours)
            assert "granted" in third.reply()


def test_a_child_of_a_holder_is_the_holders_own_even_when_its_parent_is_gone(scene: CardScene, tmp_path: Path):
    pid_file = tmp_path / "pid"
    script = f"(sleep 60 & echo $! > {pid_file}.new; mv {pid_file}.new {pid_file}); wait; sleep 60"
    command = [sys.executable, "-m", "prefect_slots", "run", "--gpu-mem", "10", "--", "sh", "-c", script]
    with subprocess.Popen(command, env=scene.machine.env, start_new_session=True) as run:
        until(pid_file.exists, what="the orphan")
        orphan = int(pid_file.read_text())
        with stranger() as other:
            both = FakeProcess(pid=orphan, memory=9 * GIB), FakeProcess(pid=other, memory=1 * GIB)
            scene.on_card(*both)
            scene.until_foreign(1024)
        os.killpg(run.pid, 15)
        run.wait(30)


@pytest.mark.slow
def test_what_a_process_keeps_after_its_grant_is_taken_off_while_it_is_there(scene: CardScene, puppet: Puppet):
    scene.on_card()
    assert "granted" in puppet.enter(gpu_mem=10)
    scene.on_card(FakeProcess(pid=puppet.process.pid, memory=6 * GIB))
    until(lambda: bool(scene.machine.count("spent")), what="a look")
    assert scene.foreign() == 0
    puppet.leave()
    scene.until_foreign(6 * 1024)
    scene.on_card()
    scene.until_foreign(0)


def test_ignored_programs_and_crumbs_leave_a_whole_card_whole(scene: CardScene, puppet: Puppet):
    with stranger("Xorg") as desktop:
        scene.on_card(FakeProcess(pid=desktop, memory=GIB), besides=60 * 2**20)
        assert puppet.enter(gpus=1)["granted"] == {"gpu_mem": 24 * 1024}
        until(lambda: bool(scene.machine.count("spent")), what="a look")
        assert (scene.foreign(), scene.seen()["used"]) == (0, 0)


def test_c02_what_is_not_told_is_at_least_what_exceeds_our_grants_and_an_answer_ends_that(
    scene: CardScene, puppet: Puppet
):
    with stranger() as other:
        scene.on_card(FakeProcess(pid=other, memory=5 * GIB))
        assert "granted" in puppet.enter(gpu_mem=1)
        scene.until_foreign(5 * 1024)
        untold = FakeProcess(pid=puppet.process.pid, memory=UNTOLD)
        scene.on_card(untold, besides=9 * GIB)
        # Ours may use no more than the 1 GiB that it was granted.
        scene.until_foreign(8 * 1024)
        assert (scene.seen()["why"] != "", scene.seen()["misses"]) == (True, 0)
        scene.on_card(besides=2 * GIB)
        scene.until_foreign(2 * 1024)
        assert scene.seen()["why"] == ""


def test_a_driver_that_tells_nothing_any_more_leaves_the_last_number_and_an_alarm(tmp_path: Path, library: Path):
    scene = CardScene(tmp_path, library, stale_after="2")
    code = """
import logging, sys
logging.basicConfig(level="WARNING", format="%(message)s", stream=sys.stdout)
from prefect_slots import requires
with requires(gpu_mem=1):
    print("ready", flush=True)
    sys.stdin.readline()
"""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code]
    with (
        stranger() as other,
        subprocess.Popen(command, env=scene.machine.env, stdin=pipe, stdout=pipe, text=True) as task,
    ):
        assert task.stdout is not None
        assert task.stdout.readline() == "ready\n"
        scene.on_card(FakeProcess(pid=other, memory=5 * GIB))
        scene.until_foreign(5 * 1024)
        scene.tell(init=999)
        alarm = task.stdout.readline()
        assert alarm.startswith("what others use of gpu_mem (gpu 0 NVIDIA RTX A5000) is stale: told ")
        assert "nobody has answered 2 times (Unknown Error)" in alarm
        until(lambda: scene.seen()["misses"] > 3, what="more misses")
        assert scene.foreign() == 5 * 1024
        scene.on_card()
        scene.until_foreign(0)
        assert scene.seen()["misses"] == 0
        out, _ = task.communicate("\n", timeout=30)
        assert out == "", "told once"


@pytest.mark.slow
def test_a_driver_that_hangs_is_alarmed_of_and_the_doctor_says_how_old_the_number_is(tmp_path: Path, library: Path):
    scene = CardScene(tmp_path, library, stale_after="2", detect_seconds="1")
    with stranger() as other, Puppet(scene.machine) as task:
        scene.on_card(FakeProcess(pid=other, memory=5 * GIB))
        assert "granted" in task.enter(gpu_mem=1)
        scene.until_foreign(5 * 1024)
        scene.tell(hang=3600)
        until(lambda: scene.seen()["misses"] >= 2, what="misses")
        assert "has not answered for " in scene.seen()["why"]
        assert scene.foreign() == 5 * 1024
        command = [sys.executable, "-m", "prefect_slots", "doctor", "--json"]
        done = subprocess.run(command, env=scene.machine.env, capture_output=True, text=True, timeout=60, check=False)
        about = "others' use of gpu 0 NVIDIA RTX A5000"
        (found,) = (each for each in json.loads(done.stdout)["findings"] if each["about"] == about)
        assert found["severity"] == "warning"
        assert "is stale: 5GiB, told " in found["found"]
        assert "driver that hangs" in found["remedy"]


@pytest.mark.slow
def test_the_most_that_was_seen_is_held_for_a_while(tmp_path: Path, library: Path):
    scene = CardScene(tmp_path, library, hold_seconds="2")
    with stranger() as other, Puppet(scene.machine) as task:
        began = time.time()
        scene.on_card(FakeProcess(pid=other, memory=20 * GIB))
        task.ask(gpu_mem=8)
        scene.machine.waiting(1)
        assert scene.foreign() == 20 * 1024
        scene.on_card()
        reply = task.reply()
        assert reply["granted"] == {"gpu_mem": 8192}
        assert time.time() - began > 1.5


@pytest.mark.slow
def test_whoever_looks_is_replaced_when_it_is_killed(scene: CardScene):
    with Puppet(scene.machine) as first, Puppet(scene.machine) as second:
        assert "granted" in first.enter(gpu_mem=1)
        until(lambda: bool(scene.machine.all("SELECT 1 FROM role WHERE name='watcher'")), what="somebody who looks")
        assert "granted" in second.enter(gpu_mem=1)
        first.kill()
        with stranger() as other:
            scene.on_card(FakeProcess(pid=other, memory=3 * GIB))
            scene.until_foreign(3 * 1024)

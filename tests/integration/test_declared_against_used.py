"""Real tasks that use more, or much less, than they declared of a card, as a real NVML library tells, or of memory."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support.card_scene import CardScene, stranger
from tests.support.nvml_stub.library import build
from tests.support.nvml_stub.machines import GIB, FakeProcess
from tests.support.polling import until
from tests.support.processes import Puppet
from tests.support.watcher import watched


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def run(scene: CardScene, *command: str, gib: int = 8) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "prefect_slots", "run", "--gpu-mem", str(gib), "--", *command]
    return subprocess.Popen(argv, env=scene.machine.env, stderr=subprocess.PIPE, text=True)


def command_of(scene: CardScene) -> int:
    def noted() -> list[Any]:
        return [row[0] for row in scene.machine.all("SELECT command FROM owner WHERE command IS NOT NULL")]

    until(lambda: len(noted()) == 1, what="the command's process in the ledger")
    return noted()[0]


def looks(scene: CardScene) -> int:
    return scene.machine.all("SELECT COALESCE(SUM(looks), 0) FROM spent")[0][0]


def test_who_uses_more_than_it_declared_is_named_once_with_who_is_at_risk_and_the_rest_is_not_granted(
    tmp_path: Path, library: Path
):
    with watched(tmp_path, library) as (scene, watcher), Puppet(scene.machine) as one, Puppet(scene.machine) as two:
        assert "granted" in one.enter(gpu_mem=8)
        assert "granted" in two.enter(gpu_mem=4)
        within = FakeProcess(pid=two.process.pid, memory=4 * GIB)
        scene.on_card(FakeProcess(pid=one.process.pid, memory=11 * GIB), within)
        watcher.says("of gpu 0 and declared 8GiB")
        (warning,) = (line for line in watcher.log.splitlines() if "WARNING" in line)
        assert "(puppet.py:" in warning
        assert "uses 11GiB of gpu 0 and declared 8GiB; at risk beside it: with block (puppet.py:" in warning
        scene.until_foreign(3 * 1024)
        with Puppet(scene.machine) as third:
            third.ask(gpu_mem=12)
            scene.machine.waiting(1)
            scene.on_card(FakeProcess(pid=one.process.pid, memory=8 * GIB), within)
            scene.until_foreign(0)
            scene.on_card(FakeProcess(pid=one.process.pid, memory=9 * GIB), within)
            scene.until_foreign(1024)
            one.leave()
            assert "granted" in third.reply()
        assert watcher.log.count("WARNING") == 1


@pytest.mark.slow
def test_who_declared_far_too_much_is_told_when_it_has_ended(tmp_path: Path, library: Path):
    with watched(tmp_path, library) as (scene, watcher), Puppet(scene.machine) as one, Puppet(scene.machine) as two:
        assert "granted" in one.enter(gpu_mem=16)
        assert "granted" in two.enter(gpu_mem=4)
        used = FakeProcess(pid=one.process.pid, memory=3 * GIB), FakeProcess(pid=two.process.pid, memory=3 * GIB)
        scene.on_card(*used)
        until(lambda: looks(scene) >= 6, what="looks at both")
        one.leave()
        two.leave()
        watcher.says("declared 16GiB of gpu 0 and used at most 3GiB in ")
        watcher.says("gpu_mem=4 might do")
        until(lambda: not scene.machine.count("spent"), what="what was seen forgotten")
        assert watcher.log.count("might do") == 1


@pytest.mark.slow
def test_a_command_that_goes_on_using_too_much_is_ended_where_that_is_asked_for(tmp_path: Path, library: Path):
    with watched(tmp_path, library, enforce="kill") as (scene, watcher), stranger() as other:
        with run(scene, "sh", "-c", "trap '' TERM; sleep 60 & wait; sleep 60") as command:
            pid = command_of(scene)
            until(lambda: len(psutil.Process(pid).children()) == 1, what="what it starts")
            (child,) = psutil.Process(pid).children()
            scene.on_card(FakeProcess(pid=child.pid, memory=9 * GIB), FakeProcess(pid=other, memory=9 * GIB))
            watcher.says("uses 9GiB of gpu 0 and declared 8GiB; nobody else is on that card. It is ended unless")
            watcher.says("SIGTERM to its process")
            watcher.says("SIGKILL to its process")
            _, errors = command.communicate(timeout=30)
            assert command.returncode == 128 + signal.SIGKILL
            assert "ended, as it used more than it declared" in errors
        assert psutil.pid_exists(other)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        until(lambda: not scene.machine.all("SELECT 1 FROM holding WHERE resource='gpu_mem'"), what="a free card")


@pytest.mark.slow
def test_nobody_is_ended_without_being_asked_nor_who_is_more_than_one_command(tmp_path: Path, library: Path):
    with watched(tmp_path, library, enforce="kill") as (scene, watcher), Puppet(scene.machine) as task:
        assert "granted" in task.enter(gpu_mem=8)
        scene.on_card(FakeProcess(pid=task.process.pid, memory=9 * GIB))
        watcher.says("uses 9GiB of gpu 0 and declared 8GiB")
        until(lambda: scene.machine.all("SELECT over FROM spent") > [(3,)], what="more looks")
        assert task.process.poll() is None
        assert "It is ended" not in watcher.log
    (tmp_path / "second").mkdir()
    with watched(tmp_path / "second", library) as (scene, watcher), run(scene, "sleep", "60") as command:
        pid = command_of(scene)
        scene.on_card(FakeProcess(pid=pid, memory=9 * GIB))
        watcher.says("uses 9GiB of gpu 0 and declared 8GiB")
        until(lambda: scene.machine.all("SELECT over FROM spent") > [(3,)], what="more looks")
        assert (command.poll(), "SIG" in watcher.log) == (None, False)
        command.send_signal(signal.SIGTERM)
        assert command.communicate(timeout=30)[1] == ""
        assert command.returncode == 128 + signal.SIGTERM


TWO_AT_ONCE = """
import sys, threading
from prefect_slots import requires
def hold(gib):
    with requires(gpu_mem=gib):
        held.release()
        over.wait()
held, over = threading.Semaphore(0), threading.Event()
for gib in (4, 6):
    threading.Thread(target=hold, args=(gib,)).start()
held.acquire(), held.acquire()
print("ready", flush=True)
sys.stdin.readline()
over.set()
"""


@pytest.mark.slow
def test_grants_that_one_process_holds_side_by_side_are_judged_together(tmp_path: Path, library: Path):
    with watched(tmp_path, library) as (scene, watcher):
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", TWO_AT_ONCE]
        with subprocess.Popen(command, env=scene.machine.env, stdin=pipe, stdout=pipe, text=True) as both:
            assert both.stdout is not None
            assert both.stdout.readline() == "ready\n"
            scene.on_card(FakeProcess(pid=both.pid, memory=10 * GIB))
            until(lambda: looks(scene) >= 4, what="looks")
            assert "WARNING" not in watcher.log
            scene.on_card(FakeProcess(pid=both.pid, memory=11 * GIB))
            watcher.says("uses 11GiB of gpu 0 and declared 10GiB; nobody else is on that card")
            assert watcher.log.count("<string>:") == 2
            both.communicate("\n", timeout=30)
        until(lambda: not scene.machine.count("spent"), what="what was seen forgotten")
        assert "might do" not in watcher.log


USES_HOST = """
import sys
kept = b"x" * (300 * 2**20)
print("ready", flush=True)
sys.stdin.readline()
"""


def host_memory(scene: CardScene, mem: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "prefect_slots", "run", "--mem", mem, "--", sys.executable, "-c", USES_HOST]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, env=scene.machine.env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_a_command_that_uses_more_of_the_host_s_memory_is_named_and_ended_where_that_is_asked_for(
    tmp_path: Path, library: Path
):
    with watched(tmp_path, library, enforce="kill") as (scene, watcher):
        with host_memory(scene, "16GiB") as within, host_memory(scene, "128MiB") as beyond:
            watcher.says("MiB of mem and declared 128MiB; at risk beside it: ")
            watcher.says("It is ended unless it uses less by the next look.")
            watcher.says("SIGTERM to its process")
            assert "ended, as it used more than it declared" in beyond.communicate(timeout=30)[1]
            assert beyond.returncode == 128 + signal.SIGTERM
            assert within.poll() is None
            seen = "SELECT 1 FROM spent WHERE resource='mem' AND declared=16384 AND looks>=3 AND peak>=300"
            until(lambda: bool(scene.machine.all(seen)), what="looks at the other one")
            within.communicate("\n", timeout=30)
            assert within.returncode == 0
        watcher.says("declared 16GiB of mem and used at most 30")
        watcher.says("mem=1 might do")

"""Real pools whose tasks use more, or much less, than they declared: each is told apart, named, and ended if asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.card_scene import CardScene
from tests.support.nvml_stub.library import build
from tests.support.nvml_stub.machines import GIB, FakeProcess
from tests.support.polling import until
from tests.support.processes import ROOT
from tests.support.watcher import watched

# The pool's own process uses more than its tasks, which is no grant's.
POOL = """
import sys
from prefect_slots import SlotPool

def greedy(release):
    kept = b"x" * (600 * 2**20)
    return wait(release)

def modest(release):
    return wait(release)

def wait(release):
    import time
    from pathlib import Path
    while not Path(release).exists():
        time.sleep(0.02)
    return "done"

if __name__ == "__main__":
    release, first, second = sys.argv[1:4]
    kept = b"x" * (900 * 2**20)
    with SlotPool() as pool:
        one = pool.submit(greedy, release, requires=eval(first))
        two = pool.submit(modest, release, requires=eval(second))
        print(one.exception(), flush=True)
        print(two.result(), flush=True)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def pool(scene: CardScene, release: Path, greedy: str, modest: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", POOL, str(release), greedy, modest]
    return subprocess.Popen(argv, env=scene.machine.env, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_of_a_pool_s_tasks_the_one_that_uses_too_much_of_the_host_s_memory_is_ended_and_its_error_says_so(
    tmp_path: Path, library: Path
):
    release = tmp_path / "release"
    with watched(tmp_path, library, enforce="kill") as (scene, watcher):
        with pool(scene, release, "dict(mem=0.25)", "dict(mem=4)") as running:
            assert running.stdout is not None
            watcher.says("of mem and declared 256MiB; at risk beside it: modest (<string>:")
            watcher.says("SIGTERM to its process")
            died = running.stdout.readline()
            seen = "SELECT looks >= 3 AND NOT together FROM spent WHERE declared=4096"
            until(lambda: scene.machine.all(seen) == [(1,)], what="looks at the other one")
            release.touch()
            assert running.stdout.readline() == "done\n"
        watcher.says("modest (<string>:")
        watcher.says("mem=1 might do")
        assert not scene.machine.count("serving")
    warnings = [line for line in watcher.log.splitlines() if "WARNING" in line]
    assert [line.startswith("WARNING greedy (<string>:") for line in warnings] == [True]
    assert "died: signal 15 (SIGTERM). It used more than it declared" in died


def test_of_a_pool_s_tasks_on_one_card_the_one_that_uses_too_much_is_named_alone(tmp_path: Path, library: Path):
    release = tmp_path / "release"
    with (
        watched(tmp_path, library) as (scene, watcher),
        pool(scene, release, "dict(gpu_mem=8)", "dict(gpu_mem=12)") as running,
    ):
        serves = "SELECT amount, pid FROM serving s JOIN holding c ON c.held=s.held"
        until(lambda: len(scene.machine.all(serves)) == 2, what="both tasks")
        pids = dict(scene.machine.all(serves))
        greedy, modest = pids[8192], pids[12288]
        scene.on_card(
            FakeProcess(pid=greedy, memory=9 * GIB),
            FakeProcess(pid=modest, memory=2 * GIB),
            FakeProcess(pid=running.pid, memory=1 * GIB),
        )
        watcher.says("WARNING greedy (<string>:")
        watcher.says("uses 9GiB of gpu 0 and declared 8GiB; at risk beside it: modest (<string>:")
        # What goes beyond, and what the pool's own process has, for which nothing was granted.
        scene.until_foreign(2 * 1024)
        until(lambda: scene.machine.all("SELECT looks >= 3 FROM spent") == [(1,), (1,)], what="looks")
        release.touch()
        assert running.communicate(timeout=30)[0] == "None\ndone\n"
        watcher.says("declared 12GiB of gpu 0 and used at most 2GiB in ")
        watcher.says("gpu_mem=3 might do")
        assert watcher.log.count("WARNING") == 1

"""Holders and watchers in pid namespaces of their own, as containers have them, on one card and one ledger.

Case C02: the driver tells process ids of the host, and a number of one namespace is another process in the next.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from tests.support.card_scene import CardScene, stranger
from tests.support.nvml_stub.library import build
from tests.support.nvml_stub.machines import GIB, FakeProcess
from tests.support.polling import until
from tests.support.processes import Puppet

INSIDE = ("unshare", "-fp", "--kill-child", "--mount-proc")
# `/proc` stays the parent's: a number from within is a process of the parent's there.
BLIND = ("unshare", "-fp", "--kill-child")
OUTSIDE = ()
can_unshare = subprocess.run([*INSIDE, "true"], capture_output=True, check=False).returncode == 0
pytestmark = pytest.mark.skipif(not can_unshare, reason="no pid namespace may be made here")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def scene(tmp_path: Path, library: Path) -> CardScene:
    return CardScene(tmp_path, library)


def on_host(puppet: Puppet, around: tuple[str, ...]) -> int:
    """The process that holds, by its number on the host."""
    return psutil.Process(puppet.process.pid).children()[0].pid if around else puppet.process.pid


@pytest.mark.parametrize(
    ("holder", "watcher"),
    [(INSIDE, OUTSIDE), (INSIDE, INSIDE), (OUTSIDE, INSIDE), (BLIND, OUTSIDE), (OUTSIDE, BLIND)],
    ids=["inside-outside", "inside-inside", "outside-inside", "blind-outside", "outside-blind"],
)
def test_c02_others_use_is_at_least_what_exceeds_all_grants(
    scene: CardScene, holder: tuple[str, ...], watcher: tuple[str, ...]
):
    with ExitStack() as stack:
        other = stack.enter_context(stranger())
        # The first process of a machine watches its card.
        asks = stack.enter_context(Puppet(scene.machine, *watcher))
        assert "granted" in asks.enter(cpus=1)
        task = stack.enter_context(Puppet(scene.machine, *holder))
        assert "granted" in task.enter(gpu_mem=1)
        ours = FakeProcess(pid=on_host(task, holder), memory=GIB)
        # 20.5 GiB in use, of which 1 GiB is ours.
        scene.on_card(ours, FakeProcess(pid=other, memory=39 * GIB // 2))
        # A request in the second after a look believes that look.
        scene.until_foreign(39 * 512)
        asks.ask(gpu_mem=16)
        scene.machine.waiting(1)
        assert asks.silent
        # It is released as soon as the stranger leaves.
        scene.on_card(ours)
        assert asks.reply()["granted"] == {"gpu_mem": 16 * 1024}


@pytest.mark.parametrize(("holder", "watcher"), [(INSIDE, OUTSIDE), (INSIDE, INSIDE), (OUTSIDE, INSIDE)])
def test_ours_alone_is_not_taken_for_others(scene: CardScene, holder: tuple[str, ...], watcher: tuple[str, ...]):
    scene.on_card()
    with Puppet(scene.machine, *holder) as task, Puppet(scene.machine, *watcher) as asks:
        assert "granted" in task.enter(gpu_mem=10)
        scene.on_card(FakeProcess(pid=on_host(task, holder), memory=10 * GIB))
        assert "granted" in asks.enter(gpu_mem=14)


def test_use_that_was_known_before_our_holder_came_still_stands(scene: CardScene):
    with stranger() as other, Puppet(scene.machine, *INSIDE) as task:
        theirs = FakeProcess(pid=other, memory=9 * GIB)
        scene.on_card(theirs)
        assert "granted" in task.enter(gpu_mem=10)
        scene.on_card(theirs, FakeProcess(pid=on_host(task, INSIDE), memory=GIB))
        looks = scene.seen()["seen_at"]
        until(lambda: scene.seen()["seen_at"] > looks, what="another look")
        assert scene.foreign() == 9 * 1024, "10 GiB are in use and 10 GiB are granted"


@pytest.mark.parametrize("witness", [OUTSIDE, INSIDE])
def test_a_missing_lock_file_proves_no_death_in_another_namespace(scene: CardScene, witness: tuple[str, ...]):
    scene.on_card()
    with Puppet(scene.machine, *INSIDE) as task:
        assert "granted" in task.enter(gpu_mem=20)
        (lock,) = (scene.machine.state / "owners").iterdir()
        lock.unlink()
        with Puppet(scene.machine, *witness) as asks:
            assert asks.enter(gpu_mem=8, timeout=1)["error"] == "WaitTimeout"
        assert scene.machine.count("held") == 1


def test_no_signal_crosses_a_namespace(tmp_path: Path, library: Path):
    """The command of a grant has a number that is another process's here, and is warned of by its environment."""
    scene = CardScene(tmp_path, library, enforce="kill")
    scene.on_card()
    run = [sys.executable, "-m", "prefect_slots", "run", "--gpu-mem", "1", "--", "sleep", "60"]
    with Puppet(scene.machine) as watcher:
        assert "granted" in watcher.enter(cpus=1)
        with subprocess.Popen([*INSIDE, *run], env=scene.machine.env) as ours:
            noted = "SELECT 1 FROM owner WHERE command IS NOT NULL"
            until(lambda: bool(scene.machine.all(noted)), what="the command")
            command = psutil.Process(ours.pid).children(recursive=True)[-1]
            scene.on_card(FakeProcess(pid=command.pid, memory=9 * GIB))
            until(lambda: bool(scene.machine.all("SELECT 1 FROM spent WHERE warned AND over>3")), what="several looks")
            assert scene.machine.all("SELECT SUM(signals) FROM spent") == [(0,)]
            assert command.is_running()
            ours.kill()

"""`kill -9` of task processes and of the pool: each costs its own task only, and what is freed is really free."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.support.polling import until
from tests.support.processes import ROOT, SharedMachine
from tests.unit.local_machine import machine
from tests.unit.pool import calls

from prefect_slots import SlotPool, requires
from prefect_slots.errors import TaskDied

__all__ = ["machine"]


def square(number: int, seconds: float) -> tuple[int, int]:
    time.sleep(seconds)
    return number * number, os.getpid()


def task_processes() -> list[int]:
    children = psutil.Process().children()
    return [child.pid for child in children if "prefect_slots.pool.child" in " ".join(_command(child))]


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def survive(kills: int, tasks: int) -> None:
    """Kill random processes of a pool of four while it works; every future but those of the killed must be right."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    killed = 0
    needs = [{"license": "ansys"}, {"cpus": 1, "mem": 1}, {"gpu_mem": 12}, None]
    with SlotPool(4) as pool:
        futures = [pool.submit(square, n, chance.expovariate(100), requires=chance.choice(needs)) for n in range(tasks)]
        while killed < kills:
            until(lambda: bool(task_processes()), what="a process to kill")
            with suppress(ProcessLookupError, IndexError):
                os.kill(chance.choice(task_processes()), signal.SIGKILL)
                killed += 1
            if futures[-1].done():
                futures += [pool.submit(square, n, 0.01) for n in range(len(futures), len(futures) + 20)]
        died = 0
        for number, future in enumerate(futures):
            error = future.exception(100)
            if error is None:
                assert future.result()[0] == number * number
            else:
                assert isinstance(error, TaskDied)
                assert error.signal == signal.SIGKILL
                died += 1
        assert 0 < died <= kills
        assert pool.submit(square, 3, 0, requires={"gpus": 2, "cpus": 8}).result(30)[0] == 9
    assert task_processes() == []


@pytest.mark.slow
def test_a_pool_survives_the_death_of_its_processes(machine: SharedMachine) -> None:
    survive(5, 40)
    machine.until_empty(but=("owner",))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_pool_survives_two_hundred_deaths(machine: SharedMachine) -> None:
    survive(200, 1000)
    machine.until_empty(but=("owner",))


POOL = """
import sys
from pathlib import Path
from prefect_slots import SlotPool
from tests.unit.pool import calls
with SlotPool() as pool:
    folder = Path(sys.argv[1])
    futures = [pool.submit(calls.hold, folder, name, requires=dict(license="ansys")) for name in ("a", "b", "c")]
    for future in futures:
        future.result()
"""


@pytest.fixture
def pool_elsewhere(machine: SharedMachine, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", POOL, str(tmp_path)], cwd=ROOT, env=machine.env)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_tasks_of_a_killed_pool_die_before_what_they_held_is_free(
    pool_elsewhere: subprocess.Popen[bytes], machine: SharedMachine, tmp_path: Path, how: signal.Signals
) -> None:
    tasks = [calls.begun(tmp_path, name) for name in ("a", "b", "c")]
    pool_elsewhere.send_signal(how)
    with requires(license={"ansys": 3}, timeout=30):
        assert not any(_has_files(pid) for pid in tasks)
    assert pool_elsewhere.wait(30) == -how
    machine.until_empty(but=("owner",))


def test_the_last_task_process_to_go_ends_a_killed_pool_s_proof_of_life(
    pool_elsewhere: subprocess.Popen[bytes], machine: SharedMachine, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        calls.begun(tmp_path, name)
    # The lock that proves the pool alive is the task processes' too: the ledger is told of no end before theirs.
    ((lock,),) = machine.all("SELECT lock_file FROM owner WHERE pid=?", pool_elsewhere.pid)
    path = str(machine.state / "owners" / lock)
    held_by = [process.pid for process in psutil.process_iter() if path in _open_files(process)]
    assert pool_elsewhere.pid in held_by
    assert len(held_by) == 4
    pool_elsewhere.kill()
    with requires(license={"ansys": 3}, timeout=30):
        assert not any(path in _open_files(process) for process in psutil.process_iter())


def _has_files(pid: int) -> bool:
    """Tell whether a process has a file open: one that is about to be gone has closed even the devices."""
    try:
        return any(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _open_files(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error, OSError):
        return [file.path for file in process.open_files()]
    return []

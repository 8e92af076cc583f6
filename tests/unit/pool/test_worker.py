"""Tasks that do not end by themselves: cancelled, out of time, crashed, killed; what they held comes back."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.polling import until
from tests.support.processes import SharedMachine
from tests.unit.pool import calls

from prefect_slots import SlotPool
from prefect_slots.errors import TaskDied, TaskTimeout
from prefect_slots.pool import process
from prefect_slots.pool.process import Pin, Process


def test_a_waiting_task_is_cancelled_and_its_ticket_leaves(
    pool: SlotPool, machine: SharedMachine, tmp_path: Path
) -> None:
    held = pool.submit(calls.hold, tmp_path, "held", requires={"scanner": 1})
    waiting = pool.submit(calls.double, 1, requires={"scanner": 1})
    calls.begun(tmp_path, "held")
    machine.waiting(1)
    assert waiting.cancel()
    machine.waiting(0)
    calls.release(tmp_path, "held")
    assert held.result(30) == "held"
    assert waiting.cancelled()


def test_a_running_task_is_cancelled_and_what_it_held_goes_to_the_next(pool: SlotPool, tmp_path: Path) -> None:
    held = pool.submit(calls.hold, tmp_path, "held", requires={"scanner": 1})
    behind = pool.submit(calls.double, 1, requires={"scanner": 1})
    pid = calls.begun(tmp_path, "held")
    assert held.cancel()
    assert held.cancelled()
    assert behind.result(30) == 2
    assert calls.is_gone(pid)


def test_what_a_task_has_started_ends_with_it(pool: SlotPool, tmp_path: Path) -> None:
    held = pool.submit(calls.hold_with_a_child, tmp_path, "held")
    calls.begun(tmp_path, "held")
    child = int((tmp_path / "held.child").read_text())
    assert not calls.is_gone(child)
    held.cancel()
    until(lambda: calls.is_gone(child), what="the end of the task's child")


def test_a_task_that_runs_too_long_is_killed(pool: SlotPool, machine: SharedMachine, tmp_path: Path) -> None:
    held = pool.submit(calls.hold, tmp_path, "held", requires={"scanner": 1}, timeout=0.5)
    with pytest.raises(TaskTimeout, match=r"hold \(calls.py:\d+\) ran longer than 0.5 s"):
        held.result(30)
    assert pool.submit(calls.double, 1, requires={"scanner": 1}, timeout=30).result(30) == 2
    machine.until_empty(but=("owner",))


def test_a_limit_may_be_longer_than_the_system_waits_at_once(pool: SlotPool, machine: SharedMachine) -> None:
    month = pool.submit(calls.double, 1, requires={"scanner": 1}, timeout=31 * 86400)
    assert month.result(30) == 2
    machine.until_empty(but=("owner",))


@pytest.mark.usefixtures("machine")
def test_a_process_may_be_idle_for_ever() -> None:
    with SlotPool(1, idle_seconds=math.inf) as pool:
        first = pool.submit(calls.process).result(30)
        until(lambda: "0 running, 0 waiting, 1 processes" in repr(pool), what="an idle process")
        assert pool.submit(calls.process).result(30) == first


def test_only_running_counts_against_the_limit(pool: SlotPool, tmp_path: Path) -> None:
    held = pool.submit(calls.hold, tmp_path, "held", requires={"scanner": 1})
    behind = pool.submit(calls.double, 1, requires={"scanner": 1}, timeout=30)
    calls.begun(tmp_path, "held")
    calls.release(tmp_path, "held")
    assert (held.result(30), behind.result(30)) == ("held", 2)


def test_the_next_task_does_not_wait_for_whoever_is_told_of_an_end(pool: SlotPool, tmp_path: Path) -> None:
    told = threading.Event()
    first = pool.submit(calls.hold, tmp_path, "first", requires={"scanner": 1})
    first.add_done_callback(lambda _: told.wait(30))
    behind = pool.submit(calls.hold, tmp_path, "behind", requires={"scanner": 1})
    calls.release(tmp_path, "first")
    calls.begun(tmp_path, "behind")
    assert not told.is_set()
    assert behind.cancel()
    until(lambda: calls.is_gone(calls.begun(tmp_path, "behind")), what="the end of a task cancelled meanwhile")
    told.set()
    assert first.result(30) == "first"


def test_what_ended_in_time_counts_though_it_is_read_late(pool: SlotPool, tmp_path: Path) -> None:
    first = pool.submit(calls.hold, tmp_path, "first", requires={"scanner": 1})
    first.add_done_callback(lambda _: until(lambda: time.monotonic() > begun + 0.5))
    behind = pool.submit(calls.double, 1, requires={"scanner": 1}, timeout=0.3)
    begun = time.monotonic()
    calls.release(tmp_path, "first")
    assert behind.result(30) == 2


@pytest.mark.parametrize(
    ("end", "code", "by"),
    [
        ((calls.leave_with, 3), 3, None),
        ((calls.die_by, signal.SIGKILL), None, signal.SIGKILL),
        ((calls.die_by, signal.SIGSEGV), None, signal.SIGSEGV),
    ],
)
def test_a_crash_fails_its_own_task_only(
    pool: SlotPool, tmp_path: Path, end: tuple[Callable[[int], None], int], code: int | None, by: int | None
) -> None:
    other = pool.submit(calls.hold, tmp_path, "other", requires={"license": "ansys"})
    crashed = pool.submit(*end, requires={"scanner": 1})
    behind = pool.submit(calls.double, 1, requires={"scanner": 1})
    with pytest.raises(TaskDied) as caught:
        crashed.result(30)
    assert (caught.value.exit_code, caught.value.signal, caught.value.out_of_memory) == (code, by, False)
    assert behind.result(30) == 2
    calls.begun(tmp_path, "other")
    calls.release(tmp_path, "other")
    assert other.result(30) == "other"


def test_a_process_killed_while_it_was_idle_is_replaced(pool: SlotPool) -> None:
    pid = pool.submit(calls.process).result(30)
    os.kill(pid, signal.SIGKILL)
    until(lambda: calls.is_gone(pid))
    assert pool.submit(calls.process).result(30) != pid


def test_a_process_that_cannot_be_started_fails_its_task(pool: SlotPool, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without_python:
        without_python.setattr("sys.executable", "/nonexistent/python")
        with pytest.raises(FileNotFoundError):
            pool.submit(calls.double, 1, requires={"scanner": 1}).result(30)
    assert pool.submit(calls.double, 1, requires={"scanner": 1}).result(30) == 2


def test_a_task_cancelled_while_its_process_starts_never_runs(
    pool: SlotPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Pin] = []

    def cancel_first(name: str, pin: Pin, folder: Path | None, lock: int | None) -> Process:
        task.cancel()
        started.append(pin)
        return Process(name, pin, folder, lock)

    monkeypatch.setattr(process, "Process", cancel_first)
    task = pool.submit(calls.hold, tmp_path, "never", requires={"scanner": 1})
    until(lambda: "0 running, 0 waiting" in repr(pool), what="the end of the task")
    assert started == [Pin()]
    assert task.cancelled()
    monkeypatch.undo()
    assert pool.submit(calls.double, 1, requires={"scanner": 1}).result(30) == 2

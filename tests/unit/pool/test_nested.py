"""Tasks that submit tasks: served from the same pool and their own grant, no deadlock, ended with their outer one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.polling import until
from tests.support.processes import SharedMachine
from tests.unit.pool import calls

from prefect_slots import SlotPool
from prefect_slots.errors import OutOfOrder

EVERYTHING = {"gpus": 2, "cpus": 8, "license": {"matlab": 2, "ansys": 3}, "scanner": 1}


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("workers", [1, 2])
def test_three_levels_deep_with_every_process_taken(workers: int) -> None:
    with SlotPool(workers) as pool:
        futures = [pool.submit(calls.inner_sum, pool, 3, {}) for _ in range(2)]
        assert [future.result(60) for future in futures] == [8, 8]


def test_three_levels_deep_with_the_whole_machine_taken(machine: SharedMachine) -> None:
    with SlotPool() as pool:
        futures = [pool.submit(calls.inner_sum, pool, 3, {"license": "ansys"}, requires=EVERYTHING) for _ in range(2)]
        assert [future.result(60) for future in futures] == [8, 8]
    machine.until_empty(but=("owner",))


def test_an_inner_task_draws_on_the_outer_one_s_grant(pool: SlotPool, machine: SharedMachine) -> None:
    def outer() -> tuple[str | None, str | None]:
        same = pool.submit(calls.variable, "CUDA_VISIBLE_DEVICES", requires={"gpu_mem": 4}).result(30)
        free = pool.submit(calls.variable, "CUDA_VISIBLE_DEVICES").result(30)
        return same, free

    assert pool.submit(outer, requires={"gpu_mem": 24}).result(30) == ("GPU-test-0", "GPU-test-0")
    machine.until_empty(but=("owner",))


def test_what_could_deadlock_is_refused(pool: SlotPool) -> None:
    def outer() -> str:
        try:
            pool.submit(calls.double, 1, requires={"gpu_mem": 4}).result(30)
        except OutOfOrder as refused:
            return refused.wanted_at
        return "granted"

    assert pool.submit(outer, requires={"scanner": 1}).result(30).startswith("double (calls.py:")


def test_errors_and_large_results_come_through(pool: SlotPool) -> None:
    def outer() -> tuple[str, int, list[int]]:
        failed = pool.submit(calls.fail, "deep down").exception(30)
        large = pool.submit(bytearray, 3_000_000).result(30)
        return str(failed), len(large), list(pool.map(calls.double, range(3), progress=True))

    assert pool.submit(outer).result(30) == ("deep down", 3_000_000, [0, 2, 4])


def test_a_map_that_cannot_be_submitted_whole_leaves_nothing_behind(pool: SlotPool, tmp_path: Path) -> None:
    assert calls.is_gone(pool.submit(calls.map_and_break_off, pool, tmp_path).result(60))


def test_what_was_submitted_ends_with_who_submitted_it(pool: SlotPool, tmp_path: Path) -> None:
    pid = pool.submit(calls.submit_and_leave, pool, tmp_path).result(30)
    until(lambda: calls.is_gone(pid), what="the end of what nobody waits for")
    # The pool learns of it a moment after the process is gone.
    until(lambda: "0 running, 0 waiting" in repr(pool), what="its end in the pool")


def test_a_killed_task_takes_what_it_submitted_with_it(pool: SlotPool, tmp_path: Path) -> None:
    outer = pool.submit(calls.submit_and_hold, pool, tmp_path)
    pid = calls.begun(tmp_path, "inner")
    assert outer.cancel()
    until(lambda: calls.is_gone(pid), what="the end of the inner task")
    until(lambda: "0 running" in repr(pool), what="the end of both")


def test_a_task_may_cancel_what_it_submitted(pool: SlotPool, tmp_path: Path) -> None:
    def outer(folder: Path) -> tuple[bool, bool]:
        held = pool.submit(calls.hold, folder, "held")
        pid = calls.begun(folder, "held")
        cancelled = held.cancel()
        until(lambda: calls.is_gone(pid))
        return cancelled, held.cancelled()

    assert pool.submit(outer, tmp_path).result(30) == (True, True)


@pytest.mark.usefixtures("machine")
def test_a_pool_reaches_its_own_tasks_only() -> None:
    with SlotPool(1) as first, SlotPool(1) as second:
        with pytest.raises(RuntimeError, match="its own tasks only"):
            second.submit(calls.inner_sum, first, 1, {}).result(30)
        assert first.submit(lambda: first).result(30) is first

"""`SlotPool` as an executor: results in order, errors with their traceback, grants around calls, an end to all."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.support.polling import until
from tests.support.processes import ROOT, Puppet, SharedMachine
from tests.unit.pool import calls

from prefect_slots import SlotPool, any_of, requires
from prefect_slots.errors import Impossible, InvalidRequirement, OutOfOrder, UnknownResource, WaitTimeout
from prefect_slots.pool.task import Task


def test_results_come_back_in_order_from_other_processes(pool: SlotPool) -> None:
    assert list(pool.map(calls.double, range(20), requires={"license": "ansys"})) == [2 * n for n in range(20)]
    assert pool.submit(calls.process).result(30) != os.getpid()


def test_functions_without_a_name_travel_too(pool: SlotPool) -> None:
    factor = 3
    assert pool.submit(lambda number: factor * number, 5).result(30) == 15
    assert pool.submit(calls.later, 1).result(30) == 2


def test_a_call_runs_under_its_grant_and_gives_it_back(pool: SlotPool, machine: SharedMachine, tmp_path: Path) -> None:
    held = pool.submit(calls.hold, tmp_path, "held", requires={"gpu_mem": 8, "license": "matlab"})
    calls.begun(tmp_path, "held")
    assert machine.all("SELECT resource, amount FROM holding ORDER BY 1") == [("gpu_mem", 8192), ("license.matlab", 1)]
    ((pid, label),) = machine.all("SELECT pid, label FROM held JOIN owner ON owner.id=held.owner")
    assert (pid, label) == (os.getpid(), f"hold (calls.py:{calls.hold.__code__.co_firstlineno})")
    calls.release(tmp_path, "held")
    assert held.result(30) == "held"
    machine.until_empty(but=("owner",))


def test_what_a_function_was_decorated_with_is_asked_for_once(pool: SlotPool, machine: SharedMachine) -> None:
    text, device, uuids, amounts = pool.submit(calls.infer, "text").result(30)
    assert (text, device, amounts) == ("text", "cuda:0", {"gpu_mem": 8192, "license.matlab": 1})
    assert uuids == ["GPU-test-0"]
    machine.until_empty(but=("owner",))
    assert machine.all("SELECT COUNT(DISTINCT held) FROM history") == [(1,)]


def test_amounts_are_worked_out_from_the_arguments(pool: SlotPool) -> None:
    assert list(pool.map(calls.sized, [2, 3])) == [{"gpu_mem": 2048}, {"gpu_mem": 3072}]


def test_the_first_alternative_that_is_to_be_had_is_chosen(pool: SlotPool) -> None:
    either = any_of({"gpu_mem": 900}, {"cpus": 1})
    assert pool.submit(calls.chosen, requires=either).result(30) == {"cpus": 1}
    assert pool.submit(calls.chosen, requires={"any_of": [{"gpu_mem": 1}, {"cpus": 1}]}).result(30) == {"gpu_mem": 1}


def test_a_license_is_asked_for_in_either_spelling(pool: SlotPool) -> None:
    assert pool.submit(calls.chosen, requires={"licence": "matlab"}).result(30) == {"license": "matlab"}
    with pytest.raises(InvalidRequirement, match="two spellings"):
        pool.submit(calls.chosen, requires={"licence": "matlab", "license": "matlab"})


def test_who_says_that_it_is_short_runs_before_what_cannot_start_sooner(
    pool: SlotPool, machine: SharedMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SLOTS_MAX_OVERTAKES", "0")
    with SlotPool() as strict:
        needs = {"license": {"ansys": 2}, "expected_seconds": 600}
        held = strict.submit(calls.hold, tmp_path, "held", requires=needs)
        calls.begun(tmp_path, "held")
        wide = strict.submit(calls.double, 2, requires={"license": {"ansys": 3}})
        machine.waiting(1)
        long = strict.submit(calls.double, 3, requires={"license": "ansys"})
        machine.waiting(2)
        short = strict.submit(calls.double, 4, requires={"license": "ansys", "expected_seconds": 60})
        assert short.result(30) == 8
        assert not wide.done()
        assert not long.done()
        calls.release(tmp_path, "held")
        assert [held.result(30), wide.result(30), long.result(30)] == ["held", 4, 6]


def test_requires_beside_a_decoration_is_a_grant_around_it(pool: SlotPool, machine: SharedMachine) -> None:
    outer = pool.submit(calls.draws, requires={"gpu_mem": 8}).result(30)
    machine.until_empty(but=("owner",))
    ((first,),) = machine.all("SELECT DISTINCT held FROM history WHERE amount=8192")
    assert outer == first


def test_what_encloses_the_submission_is_drawn_on(pool: SlotPool, machine: SharedMachine, tmp_path: Path) -> None:
    with requires(gpu_mem=16) as outer:
        held = pool.submit(calls.hold, tmp_path, "drawn", requires={"gpu_mem": 8})
        calls.begun(tmp_path, "drawn")
        assert machine.all("SELECT source FROM held WHERE id<>?", outer.id) == [(outer.id,)]
        assert pool.submit(calls.variable, "PREFECT_SLOTS_GRANT").result(30) == outer.token
        calls.release(tmp_path, "drawn")
        assert held.result(30) == "drawn"
        with pytest.raises(OutOfOrder):
            pool.submit(calls.double, 1, requires={"gpu_mem": 17}).result(30)


def test_an_error_travels_with_its_traceback(pool: SlotPool) -> None:
    with pytest.raises(ValueError, match="what went wrong") as caught:
        pool.submit(calls.fail, "what went wrong").result(30)
    assert "raise ValueError(text)" in str(caught.value.__cause__)
    assert "calls.py" in str(caught.value.__cause__)


def test_what_cannot_be_sent_fails_its_own_task_only(pool: SlotPool) -> None:
    def unsendable() -> object:
        return threading.Lock()

    class Unfit(Exception):
        def __init__(self, first: int, second: int) -> None:
            super().__init__(f"{first} but not {second}")

    def unfit() -> None:
        raise Unfit(1, 2)

    with pytest.raises(TypeError, match="pickle"):
        pool.submit(unsendable).result(30)
    with pytest.raises(pickle.PicklingError, match="Unfit: 1 but not 2") as caught:
        pool.submit(unfit).result(30)
    assert "raise Unfit(1, 2)" in str(caught.value.__cause__)
    with pytest.raises(TypeError, match="pickle"):
        pool.submit(calls.double, threading.Lock())
    assert pool.submit(calls.double, 2).result(30) == 4


def test_what_can_never_be_granted_fails_at_once(pool: SlotPool) -> None:
    with pytest.raises(Impossible):
        pool.submit(calls.double, 1, requires={"gpu_mem": 25}).result(30)
    with pytest.raises(UnknownResource):
        pool.submit(calls.double, 1, requires={"microscope": 1}).result(30)
    with pytest.raises(InvalidRequirement):
        pool.submit(calls.double, 1, requires={"gpu_mem": "much"})
    with pytest.raises(InvalidRequirement, match="timeout"):
        pool.submit(calls.double, 1, timeout=-1)
    assert pool.submit(calls.double, 1, requires={"gpu_mem": 24}).result(30) == 2


def test_what_is_no_amount_is_none_after_its_equal_was_one_too(pool: SlotPool) -> None:
    assert pool.submit(calls.double, 1, requires={"scanner": 1}).result(30) == 2
    with pytest.raises(InvalidRequirement, match="scanner"):
        pool.submit(calls.double, 1, requires={"scanner": True})


@pytest.mark.parametrize("wrong", [{"idle_seconds": -1}, {"turn_seconds": float("nan")}])
def test_no_time_is_less_than_none(machine: SharedMachine, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SlotPool(**wrong)  # pyright: ignore[reportArgumentType]


def test_a_wait_may_be_limited(pool: SlotPool, machine: SharedMachine, tmp_path: Path) -> None:
    held = pool.submit(calls.hold, tmp_path, "held", requires={"scanner": 1})
    calls.begun(tmp_path, "held")
    with pytest.raises(WaitTimeout, match="waits for 1 of scanner; 0 free"):
        pool.submit(calls.double, 1, requires={"scanner": 1, "timeout": 0.1}).result(30)
    machine.until_empty(but=("owner", "held", "holding"))
    calls.release(tmp_path, "held")
    assert held.result(30) == "held"


def test_who_waits_in_another_process_is_served_between_two_tasks(machine: SharedMachine, tmp_path: Path) -> None:
    with SlotPool(turn_seconds=0) as pool, Puppet(machine) as other:
        first = pool.submit(calls.hold, tmp_path, "first", requires={"scanner": 1})
        second = pool.submit(calls.hold, tmp_path, "second", requires={"scanner": 1})
        calls.begun(tmp_path, "first")
        machine.waiting(1)
        third = pool.submit(calls.double, 3, requires={"scanner": 1})
        other.ask(scanner=1)
        machine.waiting(2)
        calls.release(tmp_path, "first", "second")
        assert first.result(30) == "first"
        assert second.result(30) == "second"
        assert other.reply()["granted"] == {"scanner": 1}
        assert not third.done(), "the line's next ticket is younger than the other's"
        other.leave()
        assert third.result(30) == 6


def test_a_line_of_tasks_waits_as_one_ticket(pool: SlotPool, machine: SharedMachine, tmp_path: Path) -> None:
    held = pool.submit(calls.hold, tmp_path, "held", requires={"scanner": 1})
    calls.begun(tmp_path, "held")
    waiting = [pool.submit(calls.double, n, requires={"scanner": 1}) for n in range(5)]
    machine.waiting(1)
    assert repr(pool) == "<SlotPool 1 running, 5 waiting, 1 processes>"
    assert pool.reasons() == ["waits for 1 of scanner; 0 free"]
    calls.release(tmp_path, "held")
    assert [future.result(30) for future in waiting] == [0, 2, 4, 6, 8]
    assert held.done()


def test_a_process_serves_calls_of_the_same_pin_one_after_another(pool: SlotPool, machine: SharedMachine) -> None:
    first = pool.submit(calls.process, requires={"gpu_mem": 8}).result(30)
    machine.until_empty(but=("owner",))  # or the second call would find more room on the other card
    assert pool.submit(calls.process, requires={"gpu_mem": 20}).result(30) == first
    assert pool.submit(calls.process, requires={"license": "ansys"}).result(30) != first


def test_a_full_pool_ends_an_idle_process_of_another_pin(machine: SharedMachine) -> None:
    with SlotPool(1) as pool:
        first = pool.submit(calls.process, requires={"gpu_mem": 8}).result(30)
        assert pool.submit(calls.process).result(30) != first
        until(lambda: calls.is_gone(first), what="the end of the idle process")
        assert "1 processes" in repr(pool)


@pytest.mark.usefixtures("machine")
def test_an_idle_process_ends_after_a_time() -> None:
    with SlotPool(idle_seconds=0.05) as pool:
        first = pool.submit(calls.process).result(30)
        until(lambda: calls.is_gone(first), what="the end of the idle process")
        assert pool.submit(calls.process).result(30) != first


@pytest.mark.usefixtures("machine")
def test_no_more_tasks_run_than_workers(tmp_path: Path) -> None:
    with SlotPool(2) as pool:
        futures = [pool.submit(calls.hold, tmp_path, str(n), requires={"license": "ansys"}) for n in range(3)]
        calls.begun(tmp_path, "0")
        calls.begun(tmp_path, "1")
        assert "2 running, 1 waiting" in repr(pool)
        assert pool.reasons() == ["waits for a free process"]
        calls.release(tmp_path, "0", "1", "2")
        assert [future.result(30) for future in futures] == ["0", "1", "2"]


@pytest.mark.usefixtures("machine")
def test_each_process_is_prepared() -> None:
    with SlotPool(1, initializer=calls.prepare, initargs=("warm",)) as pool:
        assert pool.submit(calls.what_is_prepared).result(30) == ["warm"]
        assert pool.submit(calls.what_is_prepared, requires={"gpus": 1}).result(30) == ["warm"]
    with SlotPool(1, initializer=calls.fail, initargs=("no model",)) as pool, pytest.raises(ValueError, match="no mod"):
        pool.submit(calls.double, 1).result(30)


@pytest.mark.usefixtures("machine")
def test_a_pool_ends_after_what_it_was_given() -> None:
    with SlotPool(1) as pool:
        futures = [pool.submit(calls.double, n) for n in range(3)]
    assert [future.result(0) for future in futures] == [0, 2, 4]
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(calls.double, 1)
    assert "0 processes" in repr(pool)
    with pytest.raises(ValueError, match="max_workers"):
        SlotPool(0)


@pytest.mark.usefixtures("machine")
def test_shutdown_may_cancel_what_waits_and_kill_what_runs(tmp_path: Path) -> None:
    pool = SlotPool(1)
    running = pool.submit(calls.hold, tmp_path, "running")
    waiting = pool.submit(calls.double, 1)
    pid = calls.begun(tmp_path, "running")
    pool.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    assert running.running()
    pool.shutdown(kill=True)
    assert running.cancelled()
    assert calls.is_gone(pid)


@pytest.mark.usefixtures("machine")
def test_ctrl_c_within_the_block_kills_what_runs(tmp_path: Path) -> None:
    pool = SlotPool(1)
    running = pool.submit(calls.hold, tmp_path, "running")
    pid = calls.begun(tmp_path, "running")
    with pytest.raises(KeyboardInterrupt), pool:
        raise KeyboardInterrupt
    assert running.cancelled()
    assert calls.is_gone(pid)


def test_nothing_of_what_has_ended_waits_for_the_garbage_collector(pool: SlotPool) -> None:
    gc.collect()
    gc.disable()
    try:
        assert sum(pool.map(abs, range(40), requires={"scanner": 1})) == sum(range(40))
        assert isinstance(pool.submit(divmod, 1, 0).exception(), ZeroDivisionError)
        waits = [pool.submit(abs, 1, requires={"scanner": 1}) for _ in range(10)]
        assert all(future.cancel() or future.done() for future in waits)
        del waits
        # Each process's thread may still know its last one.
        until(lambda: sum(isinstance(known, Task) for known in gc.get_objects()) <= 2)
    finally:
        gc.enable()


def test_the_tools_of_concurrent_futures_work(pool: SlotPool, tmp_path: Path) -> None:
    futures = {pool.submit(calls.double, n, requires={"license": "ansys"}) for n in range(4)}
    assert {future.result() for future in concurrent.futures.as_completed(futures, 30)} == {0, 2, 4, 6}
    held = pool.submit(calls.hold, tmp_path, "held", requires={"scanner": 1})
    behind = pool.submit(calls.double, 1, requires={"scanner": 1})
    calls.begun(tmp_path, "held")
    assert behind.cancel()
    assert behind.cancel()
    assert concurrent.futures.wait([behind, held], 30, concurrent.futures.FIRST_COMPLETED).done == {behind}
    calls.release(tmp_path, "held")
    assert concurrent.futures.wait([behind, held], 30).done == {behind, held}
    assert not held.cancel()


def test_a_map_that_takes_too_long_is_cancelled(pool: SlotPool, tmp_path: Path) -> None:
    results = pool.map(calls.hold, [tmp_path] * 2, ["0", "1"], timeout=0.2, requires={"scanner": 1})
    with pytest.raises(TimeoutError):
        next(results)
    until(lambda: "0 running, 0 waiting" in repr(pool), what="the end of both")


def test_a_map_that_cannot_be_submitted_whole_leaves_nothing_behind(pool: SlotPool, tmp_path: Path) -> None:
    assert calls.is_gone(calls.map_and_break_off(pool, tmp_path))
    with pytest.raises(TypeError, match="pickle"):
        pool.map(calls.hold, [tmp_path] * 3, ["0", "1", threading.Lock()], requires={"scanner": 1})
    until(lambda: "0 running, 0 waiting" in repr(pool), what="the end of both")


@pytest.mark.usefixtures("machine")
def test_it_goes_with_asyncio(tmp_path: Path) -> None:
    async def main() -> list[int]:
        async with SlotPool() as pool:
            results = await asyncio.gather(*(asyncio.wrap_future(pool.submit(calls.double, n)) for n in range(3)))
            held = asyncio.wrap_future(pool.submit(calls.hold, tmp_path, "held"))
            pid = await asyncio.to_thread(calls.begun, tmp_path, "held")
            held.cancel()
            await asyncio.to_thread(until, lambda: calls.is_gone(pid))
            return results

    assert asyncio.run(main()) == [0, 2, 4]


def test_without_coordination_everything_runs_at_once(machine: SharedMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SLOTS_COORDINATION", "off")
    with SlotPool(1) as pool:
        assert pool.submit(calls.double, 1, requires={"gpu_mem": 1000}).result(30) == 2
    assert machine.count("held") == 0


SCRIPT = """
from prefect_slots import SlotPool
class Answer:
    def __init__(self, number): self.number = number
def answer(number): return Answer(number)
pool = SlotPool(1)
said = pool.submit(answer, 42, requires=dict(scanner=1)).result()
print(isinstance(said, Answer), said.number)
pool.submit(print, "printed before the end", flush=True)
"""


def test_a_script_needs_no_guard_and_its_classes_come_back_as_its_own(machine: SharedMachine, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)], env=machine.env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("True 42\nprinted before the end\n", "", 0)
    assert machine.traces() == {}


CHILD_IMPORTS = """
import sys
import prefect_slots.pool.child, prefect_slots.requiring.context
print(sorted({"asyncio", "dataclasses", "inspect", "logging", "prefect_slots.acquire"} & set(sys.modules)))
"""
IMPORTS = """
import sys
from prefect_slots import SlotPool
def loaded():
    import sys
    heavy = {"prefect", "pynvml", "httpx", "rich", "cyclopts", "numpy", "sqlite3", "pydantic", "psutil", "filelock"}
    return sorted(heavy & set(sys.modules))
with SlotPool(1) as pool:
    print(pool.submit(loaded, requires=dict(scanner=1)).result())
    print(sorted({"prefect", "httpx", "rich"} & set(sys.modules)))
"""


@pytest.mark.parametrize(("code", "loaded"), [(IMPORTS, "[]\n[]\n"), (CHILD_IMPORTS, "[]\n")])
def test_task_processes_load_next_to_nothing_and_the_pool_no_prefect(
    machine: SharedMachine, code: str, loaded: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=machine.env, capture_output=True, text=True, check=True
    )
    assert done.stdout == loaded


def test_people_see_what_they_call_and_nothing_else(pool: SlotPool) -> None:
    def public(shown: object) -> set[str]:
        return {name for name in dir(shown) if not name.startswith("_")}

    assert public(pool) == public(concurrent.futures.Executor) | {"reason", "reasons"}
    assert public(concurrent.futures.Executor) == {"map", "shutdown", "submit"}

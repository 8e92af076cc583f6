"""`SlotTaskRunner` and this machine's resources: asked for before a task has a process, shown, never overloaded."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.runtime import flow_run
from tests.support import runner_tasks as tasks
from tests.support.boxes import Box
from tests.support.polling import until
from tests.support.server_views import logs, shown, states

from prefect_slots import SlotTaskRunner, requires
from prefect_slots.errors import Impossible, TaskDied, WaitTimeout

pytestmark = [
    pytest.mark.server,
    pytest.mark.xdist_group("server"),
    # Prefect's flow engine leaves the connections of its own synchronous client to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_the_process_is_pinned_to_the_card_that_the_decoration_asks_for(runner: SlotTaskRunner):
    granted, seen, place = runner.submit(tasks.on_a_card, {}).result()
    assert (granted, place) == (seen, "cuda:0")


@pytest.mark.slow
def test_amounts_may_depend_on_the_arguments_even_on_those_that_are_to_come(runner: SlotTaskRunner):
    future = runner.submit(tasks.pair, {"a": 1, "b": 2})

    @task
    def first(of: tuple[int, int]) -> int:
        return of[0]

    asked = runner.submit(tasks.granted_for, {"gib": runner.submit(first, {"of": future})})
    assert asked.result() == {"gpu_mem": 1024, "scanner": 1}


@pytest.mark.slow
def test_options_replace_what_the_decoration_says_of_the_same_resource(runner: SlotTaskRunner):
    with SlotTaskRunner.options(gpu_mem=2, cpus=1):
        over = runner.submit(tasks.granted_for, {"gib": 1})
        with SlotTaskRunner.options(gpu_mem=3):
            within = runner.submit(tasks.granted, {})
        for_all: Any = tasks.granted_for
        mapped = runner.map(for_all, {"gib": [1]})
    plain = runner.submit(tasks.granted, {})
    assert over.result() == {"gpu_mem": 2048, "scanner": 1, "cpus": 1}
    assert within.result() == {"gpu_mem": 3072, "cpus": 1}
    assert mapped.result() == [{"gpu_mem": 2048, "scanner": 1, "cpus": 1}]
    assert plain.result() == {}


def test_a_task_that_waits_is_shown_with_the_reason_and_holds_no_process(
    runner_box: Box, runner: SlotTaskRunner, tmp_path: Path
):
    names = ["first", "second", "third"]

    @flow
    def main() -> Any:
        futures = [runner.submit(tasks.hold, {"folder": tmp_path, "name": name}) for name in names]
        tasks.begun(tmp_path, "first")
        waiting = [future.task_run_id for future in futures[1:]]
        for one in waiting:
            until(
                lambda one=one: shown(runner_box, one)["state_name"] == "AwaitingResources",
                what="AwaitingResources on the server",
            )
            assert shown(runner_box, one)["state_type"] == "PENDING"
        assert [future.state.name for future in futures] == ["Running", "AwaitingResources", "AwaitingResources"]
        # Two may run at once, and the process that is left is for whoever asks for nothing.
        assert runner.submit(tasks.pair, {"a": 1, "b": 2}).result() == (1, 2)
        for name in names:
            tasks.let_go(tmp_path, name)
        assert [future.result() for future in futures] == names
        return flow_run.id, waiting[0]

    number, waited = main()
    until(lambda: shown(runner_box, waited)["state_name"] == "Completed", what="the end on the server")
    assert states(runner_box, waited) == ["Pending", "AwaitingResources", "Running", "Completed"]
    assert shown(runner_box, waited)["run_count"] == 1
    until(
        lambda: any(said.startswith("waits for 1 ") for said in logs(runner_box, number)), what="the reason in the log"
    )


def test_others_on_this_machine_are_waited_for(runner_box: Box, runner: SlotTaskRunner, tmp_path: Path):
    begun, over = threading.Event(), threading.Event()

    def hold() -> None:
        with requires(scanner=1):
            begun.set()
            over.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert begun.wait(30)
    future = runner.submit(tasks.hold, {"folder": tmp_path, "name": "late"})
    until(lambda: runner_box.rows("ticket") == 1, what="a ticket")
    assert not (tmp_path / "late.begun").exists()
    over.set()
    holder.join()
    tasks.begun(tmp_path, "late")
    tasks.let_go(tmp_path, "late")
    assert future.result() == "late"


@pytest.mark.parametrize("when", ["before its upstream has ended", "while it waits", "while it runs"])
def test_cancelling(runner_box: Box, runner: SlotTaskRunner, tmp_path: Path, when: str):
    other = runner.submit(tasks.hold, {"folder": tmp_path, "name": "other"})
    pid = tasks.begun(tmp_path, "other")
    upstream = [other] if when.startswith("before") else None
    waiting = runner.submit(tasks.hold, {"folder": tmp_path, "name": "waiting"}, wait_for=upstream)
    taken_back = other if when == "while it runs" else waiting
    if when == "while it waits":
        until(lambda: runner_box.rows("ticket") == 1, what="a ticket")
    assert taken_back.cancel()
    assert taken_back.wrapped_future.cancelled()
    assert taken_back.state.is_cancelled()
    number = taken_back.task_run_id
    until(lambda: shown(runner_box, number)["state_name"] == "Cancelled", what="the cancellation on the server")
    if taken_back is other:
        assert tasks.begun(tmp_path, "waiting") != pid
    tasks.let_go(tmp_path, "other")
    tasks.let_go(tmp_path, "waiting")
    left = waiting if taken_back is other else other
    assert left.result() in {"other", "waiting"}
    assert not left.cancel()


@pytest.mark.slow
def test_a_killed_process_gives_back_what_it_held(runner: SlotTaskRunner, tmp_path: Path):
    killed = runner.submit(tasks.hold, {"folder": tmp_path, "name": "killed"})
    os.kill(tasks.begun(tmp_path, "killed"), signal.SIGKILL)
    with pytest.raises(TaskDied, match=r"hold.*signal 9 \(SIGKILL\)"):
        killed.result()
    assert killed.state.is_crashed()
    tasks.let_go(tmp_path, "next")
    assert runner.submit(tasks.hold, {"folder": tmp_path, "name": "next"}).result() == "next"


def test_what_never_fits_or_waits_too_long_fails_with_hooks_and_without_a_process(
    runner_box: Box, runner: SlotTaskRunner, tmp_path: Path
):
    failed: list[str] = []

    @task(retries=3, on_failure=[lambda _task, run, state: failed.append(f"{run.name} {state.name}")])
    def never() -> None:
        (tmp_path / "never").touch()

    @flow
    def main() -> None:
        with SlotTaskRunner.options(gpu_mem=1000):
            large = runner.submit(never, {})
        with pytest.raises(Impossible, match="can never give 1000GiB"):
            large.result()
        assert large.state.is_failed()
        held = runner.submit(tasks.hold, {"folder": tmp_path, "name": "held"})
        tasks.begun(tmp_path, "held")
        with SlotTaskRunner.options(scanner=1, timeout=0.2):
            late = runner.submit(never, {})
        with pytest.raises(WaitTimeout):
            late.result()
        tasks.let_go(tmp_path, "held")
        held.wait()

    main()
    assert [one.split()[1] for one in failed] == ["Failed", "TimedOut"]
    assert not (tmp_path / "never").exists()


def test_an_amount_that_depends_on_the_attempt_is_asked_for_at_each(runner: SlotTaskRunner, tmp_path: Path):
    assert runner.submit(tasks.grows, {"folder": tmp_path}).result() == [8192, 16384, 24576]


@pytest.mark.slow
def test_a_task_within_a_task_draws_on_its_grant(runner_box: Box):
    @task
    @requires(gpu_mem=20)
    def outer() -> Any:
        with SlotTaskRunner.options(gpu_mem=12):
            return tasks.granted.submit().result()

    @flow(task_runner=SlotTaskRunner(1))
    def main() -> Any:
        return outer.submit().result()

    assert main() == {"gpu_mem": 12288}


@pytest.mark.slow
def test_a_flow_that_ends_cancels_what_waits_and_says_so(
    runner_box: Box, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    waiting: list[Any] = []

    def look() -> None:
        until(lambda: bool(waiting), what="the submit of what waits")
        until(lambda: shown(runner_box, waiting[0])["state_name"] == "Cancelled", what="the end of what waits")
        tasks.let_go(tmp_path, "running")

    @flow(task_runner=SlotTaskRunner(1))
    def main() -> Any:
        running = tasks.hold.submit(tmp_path, "running")
        tasks.begun(tmp_path, "running")
        waiting.append(tasks.hold.submit(tmp_path, "waiting").task_run_id)
        return running.task_run_id

    with ThreadPoolExecutor(1) as thread:
        looking = thread.submit(look)
        ran = main()
        looking.result()
    until(lambda: shown(runner_box, ran)["state_name"] == "Completed", what="the end of the one that ran")
    assert not (tmp_path / "waiting.begun").exists()
    assert any("1 task runs had not started" in record.message for record in caplog.records)


@pytest.mark.slow
def test_an_interrupted_flow_kills_what_runs(runner_box: Box, tmp_path: Path):
    pids: list[int] = []

    @flow(task_runner=SlotTaskRunner(1))
    def main() -> None:
        tasks.hold.submit(tmp_path, "running")
        pids.append(tasks.begun(tmp_path, "running"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        main()
    assert not Path(f"/proc/{pids[0]}").exists()


def test_caching_asks_for_nothing_twice(runner_box: Box, runner: SlotTaskRunner, tmp_path: Path):
    @task(cache_policy=INPUTS, persist_result=True, cache_expiration=timedelta(minutes=5))
    @requires(scanner=1)
    def work(number: int, folder: str) -> int:
        (Path(folder) / f"{len([*Path(folder).iterdir()])}").touch()
        return number

    call = {"number": 1, "folder": str(tmp_path)}
    first = runner.submit(work, call)
    assert first.result() == 1
    second = runner.submit(work, call)
    assert second.result() == 1
    assert second.state.name == "Cached"
    assert len(list(tmp_path.iterdir())) == 1

"""`SlotTaskRunner` behaves as Prefect's own runners do: what their tests and those of its integrations check."""

from __future__ import annotations

import asyncio
import traceback
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import cloudpickle
import pytest
from prefect import flow, tags, task
from prefect.assets import Asset, materialize
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, PrefectWrappedFuture, as_completed
from prefect.runtime import flow_run
from prefect.settings import (
    PREFECT_TASKS_RUNNER_PROCESS_POOL_MAX_WORKERS,
    temporary_settings,
)
from prefect.states import Completed
from prefect.utilities.annotations import allow_failure
from tests.support import runner_tasks as tasks
from tests.support.boxes import Box
from tests.support.polling import until
from tests.support.server_views import events, logs, shown

from prefect_slots import SlotTaskRunner
from prefect_slots.errors import TaskDied

pytestmark = [
    pytest.mark.server,
    pytest.mark.xdist_group("server"),
    # Prefect's flow engine leaves the connections of its own synchronous client to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Upstream(PrefectWrappedFuture[Any, Future[Any]]):
    """A future of another kind."""

    def __init__(self, value: Any) -> None:
        super().__init__(uuid4(), Future())
        self._value = value

    def wait(self, timeout: float | None = None) -> None:
        del timeout

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        del timeout, raise_on_failure
        return self._value

    @property
    def state(self) -> State[Any]:
        return Completed(data=self._value)


# The runner itself


def test_a_duplicate_is_equal_and_another():
    one = SlotTaskRunner(3, initializer=print, initargs=("ready",))
    other = one.duplicate()
    assert other == one
    assert other is not one
    assert (other.max_workers, other.initializer, other.initargs) == (3, print, ("ready",))


def test_runners_are_equal_by_what_they_are_made_of():
    assert SlotTaskRunner(3) == SlotTaskRunner(3)
    assert SlotTaskRunner(3) != SlotTaskRunner(4)
    assert SlotTaskRunner(3) != "a runner"


def test_it_must_be_started():
    with pytest.raises(RuntimeError, match="Task runner is not started"):
        SlotTaskRunner().submit(tasks.pair, {})


def test_it_cannot_be_started_twice(runner: SlotTaskRunner):
    with pytest.raises(RuntimeError, match="already started"):
        runner.__enter__()


def test_the_number_of_workers_is_prefects_setting_for_process_pools():
    with temporary_settings({PREFECT_TASKS_RUNNER_PROCESS_POOL_MAX_WORKERS: 5}):
        assert SlotTaskRunner().max_workers == 5
        assert SlotTaskRunner(2).max_workers == 2


def test_it_can_be_pickled_while_it_runs(runner: SlotTaskRunner):
    assert cloudpickle.loads(cloudpickle.dumps(runner)) == runner


# Submit and map


@pytest.mark.parametrize("body", [tasks.pair, tasks.pair_async])
def test_submit(runner: SlotTaskRunner, body: Any):
    future = runner.submit(body, {"a": 1, "b": 2})
    assert isinstance(future, PrefectFuture)
    assert isinstance(future.task_run_id, UUID)
    assert isinstance(future.wrapped_future, Future)
    assert future.result() == (1, 2)
    assert future.state.is_completed()


@pytest.mark.parametrize("body", [tasks.tags_of, tasks.tags_of_async])
def test_the_process_has_the_context_of_each_submit(runner: SlotTaskRunner, body: Any):
    with tags("one", "two"):
        first = runner.submit(body, {})
        mapped = runner.map(body, {"_": [1, 2]})
    with tags("three"):
        second = runner.submit(body, {})
    assert first.result() == {"one", "two"}
    assert mapped.result() == [{"one", "two"}] * 2
    assert second.result() == {"three"}


@pytest.mark.parametrize("body", [tasks.pair, tasks.pair_async])
def test_map(runner: SlotTaskRunner, body: Any):
    mapped: Any = runner.map(body, {"a": [1, 2, 3], "b": [4, 5, 6]})
    assert mapped.result() == [(1, 4), (2, 5), (3, 6)]


def test_map_over_a_future_of_another_kind(runner: SlotTaskRunner):
    future = Upstream([1, 2, 3])
    pairs: Any = tasks.pair
    assert runner.map(pairs, {"a": future, "b": future}).result() == [(1, 1), (2, 2), (3, 3)]


def test_a_large_argument_and_a_class_of_the_users(runner: SlotTaskRunner):
    data = bytes(10**7)
    assert runner.submit(tasks.pair, {"a": data, "b": tasks.Photo(3)}).result() == (data, tasks.Photo(3))


def test_the_traceback_of_a_task_that_was_made_within_a_function_shows_its_source(runner: SlotTaskRunner):
    @task
    def fails() -> str:
        try:
            raise OSError("the lens is stuck")
        except OSError:
            return traceback.format_exc()

    shown = runner.submit(fails, {}).result()
    assert f'  File "{__file__}", line ' in shown
    assert 'raise OSError("the lens is stuck")' in shown


def test_a_task_that_was_made_within_a_function(runner: SlotTaskRunner):
    factor = 3

    @task
    def times(number: int) -> int:
        return number * factor

    assert runner.submit(times, {"number": 2}).result() == 6


def test_futures_come_as_they_are_completed(runner: SlotTaskRunner, tmp_path: Path):
    slow = runner.submit(tasks.hold, {"folder": tmp_path, "name": "slow"})
    fast = runner.submit(tasks.pair, {"a": 1, "b": 2})
    in_order = as_completed([slow, fast], timeout=60)
    assert next(in_order) is fast
    tasks.let_go(tmp_path, "slow")
    assert next(in_order) is slow


# Dependencies


def test_a_future_as_argument_is_waited_for_and_known_as_input_not_as_parent(
    runner_box: Box, runner: SlotTaskRunner, tmp_path: Path
):
    @flow
    def main() -> Any:
        first = runner.submit(tasks.hold, {"folder": tmp_path, "name": "first"})
        tasks.begun(tmp_path, "first")
        second = runner.submit(tasks.pair, {"a": {"deep": [first]}, "b": first})
        tasks.let_go(tmp_path, "first")
        assert second.result() == ({"deep": ["first"]}, "first")
        return first.task_run_id, second.task_run_id

    first, second = main()
    until(lambda: shown(runner_box, second)["state_name"] == "Completed", what="the second run's end on the server")
    inputs = shown(runner_box, second)["task_inputs"]
    assert {name: [one["id"] for one in found] for name, found in inputs.items()} == {
        "a": [str(first)],
        "b": [str(first)],
    }


def test_wait_for_comes_before_resources_and_submit_does_not_wait(
    runner_box: Box, runner: SlotTaskRunner, tmp_path: Path
):
    upstream = runner.submit(tasks.hold, {"folder": tmp_path, "name": "up"})
    tasks.begun(tmp_path, "up")
    after = runner.submit(tasks.hold, {"folder": tmp_path, "name": "after"}, wait_for=[upstream])
    # One scanner: it would wait in the ledger, had it asked already.
    assert runner_box.rows("ticket") == 0
    assert not after.wrapped_future.done()
    tasks.let_go(tmp_path, "up")
    tasks.begun(tmp_path, "after")
    assert upstream.wrapped_future.done()
    tasks.let_go(tmp_path, "after")
    assert after.result() == "after"


def test_a_failed_upstream_makes_what_depends_on_it_not_ready(runner_box: Box, runner: SlotTaskRunner):
    @flow
    def main() -> list[Any]:
        failed = runner.submit(tasks.fail, {"message": "This task fails!"})
        by_argument = runner.submit(tasks.pair, {"a": failed, "b": 1})
        further = runner.submit(tasks.pair_async, {"a": by_argument, "b": 1})
        by_wait_for = runner.submit(tasks.pair, {"a": 1, "b": 1}, wait_for=[failed])
        allowed = runner.submit(tasks.pair, {"a": allow_failure(failed), "b": 1})
        futures = [failed, by_argument, further, by_wait_for, allowed]
        for future in futures:
            future.wait()
        return [future.state for future in futures]

    failed, by_argument, further, by_wait_for, allowed = main()
    assert failed.is_failed()
    for state, before in ((by_argument, failed), (further, by_argument), (by_wait_for, failed)):
        assert (state.type, state.name) == ("PENDING", "NotReady")
        run = before.state_details.task_run_id
        assert f"Upstream task run '{run}' did not reach a 'COMPLETED' state" in state.message
        until(
            lambda s=state: shown(runner_box, s.state_details.task_run_id)["state_name"] == "NotReady",
            what="NotReady shown",
        )
    assert isinstance(allowed.result()[0], ValueError)


# How tasks end


@pytest.mark.parametrize(("body", "kind"), [(tasks.fail, ValueError), (tasks.fail_async, RuntimeError)])
def test_an_exception_travels(runner: SlotTaskRunner, body: Any, kind: type[Exception]):
    future = runner.submit(body, {"message": "from the process"})
    with pytest.raises(kind, match="from the process"):
        future.result()
    assert future.state.is_failed()
    assert isinstance(future.result(raise_on_failure=False), kind)


@pytest.mark.parametrize("body", [tasks.too_long, tasks.too_long_async])
def test_a_timeout(runner: SlotTaskRunner, body: Any):
    future = runner.submit(body, {})
    dependent = runner.submit(tasks.pair, {"a": future, "b": 1})
    independent = runner.submit(tasks.pair, {"a": 1, "b": 1})
    assert independent.result() == (1, 1)
    dependent.wait()
    assert (future.state.type, future.state.name) == ("FAILED", "TimedOut")
    assert dependent.state.name == "NotReady"


def test_an_interrupt_is_a_crash(runner: SlotTaskRunner):
    future = runner.submit(tasks.interrupted, {})
    future.wait()
    assert future.state.is_crashed()


def test_a_process_that_dies_fails_its_own_task_only(runner_box: Box, runner: SlotTaskRunner):
    futures = [runner.submit(tasks.end_process, {"code": 7}), runner.submit(tasks.pair, {"a": 1, "b": 2})]
    with pytest.raises(TaskDied, match=r"end_process.*exit code 7"):
        futures[0].result()
    assert futures[0].state.is_crashed()
    assert futures[1].result() == (1, 2)
    until(lambda: shown(runner_box, futures[0].task_run_id)["state_type"] == "CRASHED", what="the crash on the server")


def test_a_result_that_cannot_be_sent_is_a_crash_that_says_so(runner: SlotTaskRunner):
    future = runner.submit(tasks.cannot_be_sent, {})
    with pytest.raises(Exception, match=r"cannot pickle '_thread\.lock' object"):
        future.result()
    assert future.state.is_crashed()


def test_what_a_generator_yields_is_a_list_as_with_prefects_own_runners(runner: SlotTaskRunner):
    made: Any = tasks.generates
    assert runner.submit(made, {"number": 3}).result() == [0, 1, 2]


def test_a_retry_is_prefects_own(runner: SlotTaskRunner, tmp_path: Path):
    assert runner.submit(tasks.works_the_third_time, {"folder": tmp_path}).result() == (3, 3)


# Nested, logs, events, assets


@pytest.mark.slow
def test_a_task_submits_tasks_and_runs_a_flow(runner_box: Box):
    @flow(task_runner=SlotTaskRunner(1))
    def main() -> Any:
        return tasks.count_down.submit(1).result(), tasks.runs_a_flow.submit(2).result()

    assert main() == (1, [0, 1])


async def _asynchronous() -> Any:
    @flow(task_runner=SlotTaskRunner(1))
    async def main() -> Any:
        first = tasks.pair_async.submit(1, 2)
        second = tasks.pair.submit(first, 3)
        tasks.prints.submit("something").wait()
        return first, second, flow_run.id

    return await main()


@pytest.mark.slow
def test_an_asynchronous_flow_and_what_its_tasks_say(runner_box: Box, runner: SlotTaskRunner):
    first, second, number = asyncio.run(_asynchronous())
    assert first.result() == (1, 2)
    assert second.result() == ((1, 2), 3)
    until(lambda: "printed something" in logs(runner_box, number), what="the printed line among the flow run's logs")


@pytest.mark.slow
def test_logs_and_events_of_a_process_arrive_once_with_what_they_belong_to(runner_box: Box, runner: SlotTaskRunner):
    word = f"w{uuid4().hex[:8]}"

    @flow
    def main() -> str:
        assert runner.submit(tasks.tells, {"word": word}).result() == word
        return str(flow_run.id)

    number = main()
    until(lambda: f"the task says {word}" in logs(runner_box, number), what="the log on the server")
    until(lambda: bool(events(runner_box, "prefect-slots.tests.told", word)), what="the event on the server")
    assert logs(runner_box, number).count(f"the task says {word}") == 1
    (event,) = events(runner_box, "prefect-slots.tests.told", word)
    related = [one["prefect.resource.id"] for one in event["related"]]
    assert f"prefect.flow-run.{number}" in related
    assert [one.partition(".task-run.")[0] for one in related if ".task-run." in one] == ["prefect"]


@pytest.mark.slow
def test_assets(runner_box: Box, runner: SlotTaskRunner):
    raw, cooked = (Asset(key=f"s3://{uuid4().hex}/{name}") for name in ("raw", "cooked"))

    @materialize(raw)
    def extract() -> int:
        return 1

    @materialize(cooked)
    def load(number: int) -> int:
        return number

    @flow
    def main() -> None:
        extracted = runner.submit(extract, {})
        runner.submit(load, {"number": extracted}).wait()

    main()
    materialised = "prefect.asset.materialization.succeeded"
    until(lambda: bool(events(runner_box, materialised, cooked.key)), what="the second asset")
    (event,) = events(runner_box, materialised, cooked.key)
    assert raw.key in [one["prefect.resource.id"] for one in event["related"]]
    assert len(events(runner_box, "prefect.asset.referenced", raw.key)) == 1

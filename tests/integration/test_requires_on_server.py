"""`@requires` in real flows on a real Prefect server: what is occupied, what is shown, what is given back."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.tasks import task_input_hash
from tests.support.boxes import Box
from tests.support.polling import until, until_async
from tests.support.prefect_server import PrefectServer

from prefect_slots import current_grant, requires
from prefect_slots.acquire.engine import close_engine
from prefect_slots.errors import Impossible, LimitMissing, NotRegistered, ServerUnreachable, WaitTimeout

pytestmark = [
    pytest.mark.server,
    pytest.mark.xdist_group("server"),
    # Prefect's flow engine leaves the connections of its own synchronous client to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@contextmanager
def held_elsewhere(box: Box, **amounts: Any) -> Generator[threading.Event]:
    """Hold something in a thread of its own, where it is no enclosing grant; set the event to end it early."""
    held, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with temporary_settings({PREFECT_API_URL: box.url}), requires(**amounts):
            held.set()
            ended.wait(60)

    with ThreadPoolExecutor() as threads:
        holding = threads.submit(hold)
        assert held.wait(30)
        try:
            yield ended
        finally:
            ended.set()
            holding.result(30)


def test_what_is_granted_is_occupied_on_the_server_and_given_back(box: Box):
    with requires(gpu_mem=16, license={box.matlab: 1}) as grant:
        assert box.limits() == {
            f"gpu-mem:{box.name}": 16384,
            f"gpu-mem:{box.name}:0": 16384,
            f"license:{box.matlab}": 1,
            f"license:{box.matlab}:{box.name}": 1,
        }
        mirrors = {name for name in box.active() if name.startswith("tag:")}
        assert len(mirrors) == 4
        assert [device.uuid for device in grant.devices] == [f"GPU-a-{box.name}"]
    box.assert_nothing_is_left()


@pytest.mark.parametrize("order", ["below", "above"])
def test_a_mapped_task_never_overloads_the_cards(box: Box, order: str):
    lock, now, most = threading.Lock(), [0], [0]
    pairs = threading.Barrier(2)

    def body(i: int) -> int:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        pairs.wait(30)
        with lock:
            now[0] -= 1
        return i

    declared = requires(gpu_mem=16)
    analyse: Any = task(declared(body)) if order == "below" else declared(task(body))

    @flow
    def main() -> list[int]:
        return analyse.map(range(6)).result()

    assert sorted(main()) == list(range(6))
    assert most[0] == 2


def test_a_retry_acquires_anew_and_may_ask_for_more(box: Box):
    seen: list[int] = []

    @task(retries=2, retry_delay_seconds=0)
    @requires(gpu_mem=lambda attempt: 8 * attempt)
    def grows() -> str:
        grant = current_grant()
        assert grant is not None
        seen.append(grant.amounts["gpu_mem"])
        if len(seen) < 3:
            raise RuntimeError("out of memory")
        return "done"

    @flow
    def main() -> str:
        return grows()

    assert main() == "done"
    assert seen == [8192, 16384, 24576]


def test_a_cached_result_asks_for_nothing(box: Box):
    calls: list[int] = []

    @task(cache_policy=INPUTS, persist_result=True, cache_expiration=timedelta(minutes=5))
    @requires(gpu_mem=8)
    def work(i: int) -> int:
        calls.append(i)
        return i

    @flow
    def main(i: int) -> int:
        return work(i)

    assert main(7) == 7
    granted = box.rows("history")
    assert granted > 0
    assert main(7) == 7
    assert calls == [7]
    assert box.rows("history") == granted


def test_options_survive_and_two_tasks_of_one_name_keep_their_keys_apart(box: Box):
    def make(value: int) -> Any:
        scope: dict[str, Any] = {}
        exec(compile(f"def work():\n    return {value}\n", "tasks.py", "exec"), scope)
        return task(requires(gpu_mem=8)(scope["work"]))

    first, second = make(1), make(2)
    assert first.task_key != second.task_key
    assert requires(cpus=1)(second).task_key == second.task_key
    renamed = first.with_options(name="other", retries=1, cache_key_fn=task_input_hash)

    @flow
    def main() -> dict[str, int]:
        return {"n": renamed()}

    assert main() == {"n": 1}
    assert box.rows("history") == 1


def test_waiting_shows_as_pending_awaiting_resources_and_is_logged_with_the_reason(
    box: Box, caplog: pytest.LogCaptureFixture
):
    started = threading.Event()

    @task
    @requires(gpu_mem=24, gpus=2)
    def wide() -> int:
        started.set()
        return 1

    @flow
    def main() -> Any:
        future = wide.submit()
        shown: list[tuple[str, str]] = []

        def is_shown() -> bool:
            run = httpx.get(f"{box.url}/task_runs/{future.task_run_id}", timeout=10)
            if run.status_code == 200:
                shown.append((run.json()["state_type"], run.json()["state_name"]))
            return bool(shown) and shown[-1] == ("PENDING", "AwaitingResources")

        until(is_shown, what="AwaitingResources")
        assert not started.is_set()
        ended.set()
        assert future.result() == 1
        until(
            lambda: (
                httpx.get(f"{box.url}/task_runs/{future.task_run_id}", timeout=10).json()["state_name"] == "Completed"
            ),
            what="Completed",
        )
        return httpx.get(f"{box.url}/task_runs/{future.task_run_id}", timeout=10).json()["run_count"]

    with held_elsewhere(box, gpu_mem=20) as ended, caplog.at_level("INFO"):
        assert main() == 1
    reasons = [r.getMessage() for r in caplog.records if "waits for 24576 MiB on 2 of 2 cards" in r.getMessage()]
    assert len(reasons) == 1
    assert "gpu 0 has 4096 free, gpu 1 has 24576" in reasons[0]


def test_what_can_never_fit_is_raised_at_once_and_not_retried(box: Box):
    attempts: list[int] = []

    @task(retries=5, retry_delay_seconds=30)
    @requires(gpu_mem=lambda attempt: attempts.append(attempt) or 99)
    def huge() -> None:
        raise AssertionError("never granted")

    @flow
    def main() -> None:
        with pytest.raises(Impossible, match=r"can never give 99GiB.*largest is gpu 0"):
            huge()

    main()
    assert attempts == [1]


def test_a_timeout_of_waiting_leaves_the_queue(box: Box):
    @task
    @requires(gpu_mem=24, gpus=2, timeout=0.2)
    def wide() -> None:
        raise AssertionError("never granted")

    @flow
    def main() -> None:
        with pytest.raises(WaitTimeout, match=r"not granted within 0\.2 s"):
            wide()

    with held_elsewhere(box, gpu_mem=20):
        main()
        assert box.rows("ticket") == 0


def test_a_flow_draws_its_tasks_needs_on_its_own_grant(box: Box):
    drawn: list[dict[str, int]] = []

    @task
    @requires(gpu_mem=12)
    def step() -> None:
        grant = current_grant()
        assert grant is not None
        assert grant.parent is not None
        drawn.append(box.limits())

    @flow
    @requires(gpu_mem=24, gpus=2)
    def main() -> None:
        for future in [step.submit() for _ in range(4)]:
            future.result()

    main()
    assert len(drawn) == 4
    assert all(limits[f"gpu-mem:{box.name}"] == 2 * 24576 for limits in drawn)


def test_async_tasks_and_flows(box: Box):
    running: list[int] = [0, 0]

    @requires(gpu_mem=24)
    @task
    async def step(i: int) -> int:
        running[0] += 1
        running[1] = max(running)
        await until_async(lambda: asyncio.sleep(0, result=running[1] == 2), what="two at once")
        running[0] -= 1
        return i

    @flow
    async def main() -> list[int]:
        return list(await asyncio.gather(*(step(i) for i in range(4))))

    assert asyncio.run(main()) == [0, 1, 2, 3]
    assert running == [0, 2]


def test_generator_tasks_hold_their_grant_between_values(box: Box):
    @task
    @requires(gpu_mem=8)
    def numbers() -> Iterator[int]:
        yield 1
        yield box.limits()[f"gpu-mem:{box.name}"]

    @flow
    def main() -> list[int]:
        return list(numbers())

    assert main() == [1, 8192]


def test_slots_that_a_stranger_holds_by_hand_are_waited_for(box: Box):
    from prefect.concurrency.sync import concurrency

    granted = threading.Event()

    def ask() -> None:
        with held_elsewhere(box, gpu_mem=8):
            granted.set()

    with ThreadPoolExecutor() as threads:
        with concurrency(f"gpu-mem:{box.name}", occupy=49152, strict=True):
            waiting = threads.submit(ask)
            until(lambda: box.rows("ticket WHERE blocked_on IS NOT NULL") == 1, what="a ticket that stepped aside")
            assert not granted.is_set()
            assert box.limits() == {f"gpu-mem:{box.name}": 49152}
        waiting.result(30)
    assert granted.is_set()


def test_a_limit_that_is_missing_is_named_and_nothing_is_kept(box: Box):
    name = f"license:ansys-{box.name}:{box.name}"
    httpx.delete(f"{box.url}/v2/concurrency_limits/{name}", timeout=10).raise_for_status()
    with (
        pytest.raises(LimitMissing, match=f"{name}.*prefect-slots register"),
        requires(gpu_mem=8, license=f"ansys-{box.name}"),
    ):
        raise AssertionError("never granted")
    box.assert_nothing_is_left()
    box.register()
    with requires(license=f"ansys-{box.name}"):
        assert box.limits() == {name: 1}


def test_an_unregistered_machine_says_how_to_register_or_does_it_itself(
    prefect_server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    box = Box(tmp_path, prefect_server.url)
    for name, value in box.env.items():
        monkeypatch.setenv(name, value)
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        with pytest.raises(NotRegistered, match="prefect-slots register"), requires(gpu_mem=8):
            raise AssertionError("never granted")
        monkeypatch.setenv("PREFECT_SLOTS_AUTO_REGISTER", "true")
        close_engine()
        with requires(gpu_mem=8):
            assert box.limits()[f"gpu-mem:{box.name}"] == 8192
    close_engine()
    box.assert_nothing_is_left()


def test_a_server_that_does_not_answer_is_named(box: Box, unused_port: int):
    nowhere = f"http://127.0.0.1:{unused_port}/api"
    with (
        temporary_settings({PREFECT_API_URL: nowhere}),
        pytest.raises(ServerUnreachable, match=f"{nowhere}.*prefect server start"),
        requires(gpu_mem=8),
    ):
        raise AssertionError("never granted")


@pytest.mark.slow
def test_under_prefects_test_harness_the_error_names_the_cure(box: Box, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PREFECT_API_URL")
    out = box.run(
        """
        from prefect.testing.utilities import prefect_test_harness
        from prefect_slots import requires
        from prefect_slots.errors import SlotsError
        import os
        os.environ.pop("PREFECT_API_URL")
        with prefect_test_harness(server_startup_timeout=100):
            try:
                with requires(gpu_mem=8):
                    print("granted")
            except SlotsError as error:
                print(type(error).__name__, error)
            os.environ["PREFECT_SLOTS_COORDINATION"] = "off"
            with requires(gpu_mem=8) as grant:
                print("off", grant.device)
        """,
        seconds=110,
    )
    refused, off = out.splitlines()
    assert refused.startswith("LimitMissing")
    assert "PREFECT_SLOTS_COORDINATION=off" in refused
    assert off == "off cpu"


def test_a_killed_holders_slots_are_free_for_the_next_at_once(box: Box):
    holder = box.start(
        """
        from prefect_slots import requires
        import sys
        with requires(gpu_mem=24, gpus=2):
            print("1", flush=True)
            sys.stdin.read()
        """
    )
    assert holder.stdout is not None
    assert json.loads(holder.stdout.readline()) == 1
    assert box.limits()[f"gpu-mem:{box.name}"] == 49152
    holder.kill()
    holder.communicate()
    with requires(gpu_mem=24, timeout=20):
        pass
    box.assert_nothing_is_left()


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.fixed_dictionaries(
        {},
        optional={
            "gpu_mem": st.sampled_from([1, 2, 8, 24]),
            "mem": st.sampled_from([1, 2, 8]),
            "cpus": st.integers(1, 2),
            "scanner": st.just(1),
        },
    ).filter(bool),
    seats=st.integers(0, 2),
)
def test_whatever_is_asked_the_server_counts_exactly_that(box: Box, asked: dict[str, int], seats: int):
    wanted: dict[str, Any] = {**asked, **({"license": {box.matlab: seats}} if seats else {})}
    with requires(**wanted) as grant:
        limits = box.limits()
        amounts = grant.amounts
        totals = {f"{'gpu-mem' if name == 'gpu_mem' else name}:{box.name}" for name in asked}
        assert {name: limits.get(name) for name in totals} == {
            name: amounts[name.split(":")[0].replace("gpu-mem", "gpu_mem")] for name in totals
        }
        assert limits.get(f"license:{box.matlab}", 0) == seats
        assert limits.get(f"license:{box.matlab}:{box.name}", 0) == seats
    box.assert_nothing_is_left()

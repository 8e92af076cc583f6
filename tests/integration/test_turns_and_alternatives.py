"""Real flow runs on a real server: the map of one does not shut out another's task; of alternatives one is occupied."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from typing import Any

import pytest
from prefect import flow, task
from prefect.settings import PREFECT_API_URL, temporary_settings
from tests.support.boxes import Box
from tests.support.polling import until

from prefect_slots import any_of, current_grant, requires
from prefect_slots.cli.machine import open_ledger
from prefect_slots.settings import load_settings

pytestmark = [
    pytest.mark.server,
    pytest.mark.xdist_group("server"),
    # Prefect's flow engine leaves the connections of its own synchronous client to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_the_map_of_one_run_does_not_shut_out_the_single_task_of_another(box: Box):
    served: list[str] = []
    mapped, all_wait = threading.Event(), threading.Event()

    def body(of: str) -> None:
        served.append(of)
        if of == "map":
            mapped.set()
            assert all_wait.wait(60)

    scan: Any = task(requires(scanner=1)(body))

    @flow
    def many() -> None:
        scan.map(["map"] * 8).result()

    @flow
    def one() -> None:
        scan.submit("single").result()

    def asked() -> list[int]:
        with closing(open_ledger(load_settings(env=box.env))) as ledger:
            waiting = ledger.read(lambda tx: tx.all("SELECT COUNT(*) FROM ticket GROUP BY run"))
        return sorted(count for (count,) in waiting)

    with ThreadPoolExecutor() as threads:
        flows = [threads.submit(copy_context().run, many)]
        assert mapped.wait(60)
        until(lambda: asked() == [7], 60)
        flows.append(threads.submit(copy_context().run, one))
        until(lambda: asked() == [1, 7], 60)
        all_wait.set()
        for each in flows:
            each.result(60)
    assert len(served) == 9
    assert served.index("single") <= 3


def test_the_server_counts_what_the_chosen_alternative_needs(box: Box):
    either = any_of({"gpu_mem": 20, "license": box.matlab}, {"scanner": 1})
    counted: list[dict[str, int]] = []

    @task
    @requires(either)
    def work() -> dict[str, int]:
        grant = current_grant()
        assert grant is not None
        counted.append(box.limits())
        return grant.chosen

    @flow
    def main() -> dict[str, int]:
        return work()

    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with temporary_settings({PREFECT_API_URL: box.url}), requires(gpu_mem=20, gpus=2):
            held.set()
            assert done.wait(60)

    chosen = [main()]
    with ThreadPoolExecutor() as threads:
        holding = threads.submit(hold)
        assert held.wait(60)
        try:
            chosen.append(main())
        finally:
            done.set()
        holding.result(60)
    assert chosen == [{"gpu_mem": 20, "license": box.matlab}, {"scanner": 1}]
    assert counted[0] == {
        f"gpu-mem:{box.name}": 20480,
        f"gpu-mem:{box.name}:0": 20480,
        f"license:{box.matlab}": 1,
        f"license:{box.matlab}:{box.name}": 1,
    }
    assert counted[1].pop(f"scanner:{box.name}") == 1
    assert counted[1].keys() == {f"gpu-mem:{box.name}", f"gpu-mem:{box.name}:0", f"gpu-mem:{box.name}:1"}


def test_where_another_machine_has_the_seats_the_next_alternative_is_taken_and_seats_that_come_free_too(box: Box):
    either = any_of({"gpu_mem": 20, "license": box.matlab}, {"scanner": 1})
    seats = {"names": [f"license:{box.matlab}"], "slots": 2}
    box.send("POST", "v2/concurrency_limits/increment", seats)
    with requires(either, timeout=30) as scanning:
        assert scanning.chosen == {"scanner": 1}

        def work() -> dict[str, int] | None:
            with temporary_settings({PREFECT_API_URL: box.url}), requires(either, timeout=30) as grant:
                return grant.chosen

        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(work)
            until(lambda: box.rows("ticket") == 1, 20)
            box.send("POST", "v2/concurrency_limits/decrement", seats)
            assert waiting.result(30) == {"gpu_mem": 20, "license": box.matlab}

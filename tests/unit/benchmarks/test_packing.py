"""What `packing` compares: workloads, bounds, the shortest schedule, and the models in cases done by hand."""

from __future__ import annotations

import pytest
from benchmarks.optimum import Search
from benchmarks.policies import dask, fifo, ours, ray
from benchmarks.workload import MACHINE, SMALL, Task, area_bound, few_tasks, mapped_tasks, unlike_tasks
from tests.support.interleavings import ask, cells

ONE = cells(cpus=[4])
# 3 and 2 do not fit together, 3 and 1 do.
TASKS = [Task(ask(cpus=3), 2.0), Task(ask(cpus=2), 2.0), Task(ask(cpus=1), 4.0)]


def test_a_workload_is_a_function_of_its_seed() -> None:
    for draw in (mapped_tasks, unlike_tasks, few_tasks):
        assert draw(12, 3) == draw(12, 3) != draw(12, 4)
    assert len({task.needs for task in mapped_tasks(500, 0)}) <= 20


def test_the_area_bound_is_the_longest_task_or_the_scarcest_resources_work() -> None:
    assert area_bound(TASKS, ONE) == 4
    assert area_bound([Task(ask(cpus=3), 2.0)] * 6, ONE) == 9


def test_who_may_overtake_is_done_sooner() -> None:
    assert fifo(TASKS, ONE) == 6
    assert ours(TASKS, ONE, 0) == 6
    assert ours(TASKS, ONE, 10) == 4
    assert ray(TASKS, ONE, 0) == 4
    assert Search(TASKS, ONE, 6.0).run() == 4


def test_a_worker_for_each_card_has_its_part_of_the_rest() -> None:
    machine = cells(cpus=[4], gpu_mem=[8, 8])
    assert dask([Task(ask(cpus=2), 3.0)] * 4, machine) == 6


@pytest.mark.parametrize("seed", range(3))
def test_no_schedule_is_shorter_than_the_shortest_and_that_not_than_the_bound(seed: int) -> None:
    tasks = few_tasks(7, seed)
    makespans = [ours(tasks, SMALL, allowed) for allowed in (0, 2, 100)]
    shortest = Search(tasks, SMALL, min(makespans)).run()
    assert area_bound(tasks, SMALL) <= shortest <= min(makespans)


def test_the_laws_hold_on_a_case_of_each_suite() -> None:
    for draw in (mapped_tasks, unlike_tasks):
        tasks = draw(60, 1)
        assert ours(tasks, MACHINE, 20) >= area_bound(tasks, MACHINE)

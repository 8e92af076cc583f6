"""The flow that `runner` measures, by one task runner: `python -m benchmarks.three_steps PEER LIMIT ITEMS`.

Items go through three steps, of which the middle one needs one of two scanners. Each peer asks for them in the
way that its own documentation shows.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

PROCESSES = 4
SLOTS = 2
LOAD = 0.05
ANALYSE = 0.2
SAVE = 0.05


class Peer(NamedTuple):
    """A task runner, and how a task asks for a scanner with it.

    Attributes:
        asking: The second step's function, made to ask.
        around: Makes what is entered around its submits.
    """

    runner: Any
    asking: Callable[[Callable[[int], int]], Callable[[int], int]]
    around: Callable[[], AbstractContextManager[Any]]


def load(item: int) -> int:
    """Take the first step."""
    time.sleep(LOAD)
    return item


def analyse(item: int) -> int:
    """Take the step that needs a scanner."""
    time.sleep(ANALYSE)
    return item


def save(item: int) -> int:
    """Take the last step."""
    time.sleep(SAVE)
    return item


def ours(_: str) -> Peer:
    """`SlotTaskRunner` and `@requires`."""
    from prefect_slots import SlotTaskRunner, requires

    return Peer(SlotTaskRunner(PROCESSES), requires(scanner=1), nullcontext)


def processes(limit: str) -> Peer:
    """`ProcessPoolTaskRunner` and stock `concurrency` inside the task."""
    from prefect.task_runners import ProcessPoolTaskRunner

    def asking(function: Callable[[int], int]) -> Callable[[int], int]:
        def within(item: int) -> int:
            from prefect.concurrency.sync import concurrency

            with concurrency(limit, occupy=1):
                return function(item)

        return within

    return Peer(ProcessPoolTaskRunner(PROCESSES), asking, nullcontext)


def ray(_: str) -> Peer:
    """`RayTaskRunner` and a custom resource."""
    here = {"num_cpus": PROCESSES, "resources": {"scanner": SLOTS}, "include_dashboard": False}
    asked = partial(import_module("prefect_ray.context").remote_options, resources={"scanner": 1})
    runner = import_module("prefect_ray").RayTaskRunner(init_kwargs=here)
    return Peer(runner, _as_it_is, asked)


def dask(_: str) -> Peer:
    """`DaskTaskRunner` and a resource of each of two workers of two threads: it counts resources per worker."""
    cluster = {"n_workers": SLOTS, "threads_per_worker": PROCESSES // SLOTS, "resources": {"scanner": 1}}
    runner = import_module("prefect_dask").DaskTaskRunner(cluster_kwargs={**cluster, "dashboard_address": None})
    return Peer(runner, _as_it_is, partial(import_module("dask").annotate, resources={"scanner": 1}))


def _as_it_is(function: Callable[[int], int]) -> Callable[[int], int]:
    return function


PEERS = {"ours": ours, "processes": processes, "ray": ray, "dask": dask}


def main() -> None:
    """Run the flow and print how many seconds it took, from its call to its return."""
    from prefect import flow, task

    peer, number = PEERS[sys.argv[1]](sys.argv[2]), int(sys.argv[3])
    first, second, third = task(load), task(peer.asking(analyse)), task(save)

    @flow(task_runner=peer.runner)
    def items() -> int:
        loaded = first.map(range(number))
        with peer.around():
            analysed = second.map(loaded)
        return sum(third.map(analysed).result())

    began = time.monotonic()
    total = items()
    print(json.dumps({"seconds": time.monotonic() - began, "total": total}))


if __name__ == "__main__":
    main()

"""How well tasks that need several resources are packed: the makespan of 500 of them against what no schedule beats.

In virtual time, all tasks there at the beginning: our own scheduler, with every law watched at every step, once without
limit on overtaking, once with the default one, and once so with every task saying how long it takes; and models of
FIFO, Ray's and Dask's schedulers. Then twelve tasks against the shortest of all their schedules, and in real time, in
threads.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.case import BOUND, OURS, Bar, Measured, Run, pick
from benchmarks.optimum import Search
from benchmarks.policies import dask, fifo, ours, ray
from benchmarks.workload import MACHINE, SMALL, Task, area_bound, few_tasks, mapped_tasks, unlike_tasks

MAPPED = "500 calls of 20 functions"
UNLIKE = "500 unlike tasks"
FEW = "12 tasks"
REAL = "12 tasks in threads"
DEFAULT = "ours, K=20"
WORDS = "ours, K=20, expected_seconds"
FIFO = "FIFO (model)"
RAY = "Ray (model)"
DASK = "Dask (model)"
OPTIMUM = "optimum"
VIRTUAL = "virtual time"
UNBOUNDED = sys.maxsize
K = 20
SCALE = 0.1
_CONFIG = """
[settings]
coordination = "local"
max_overtakes = 1_000_000
[gpus]
detect = false
[[gpus.card]]
uuid = "GPU-a"
memory = "24GiB"
[[gpus.card]]
uuid = "GPU-b"
memory = "24GiB"
[host]
cpus = 8
mem = "32GiB"
mem_headroom = "0GiB"
[license.licence]
seats = 1
scope = "worker"
"""


def measure(run: Run) -> list[Measured]:
    """Schedule every suite with everybody."""
    suites, few = (2, 1) if run.quick else (12, 8)
    run.expect(2 * suites + few + 1)
    measured: list[Measured] = []
    for case, draw in ((MAPPED, mapped_tasks), (UNLIKE, unlike_tasks)):
        ratios: dict[str, list[float]] = {}
        for seed in range(suites):
            run.step(f"{case}, seed {seed}")
            tasks = draw(500, seed)
            bound = area_bound(tasks, MACHINE)
            found = _many(tasks, seed)
            if case == MAPPED:
                found[WORDS] = ours(tasks, MACHINE, K, words=True)
            for peer, seconds in found.items():
                ratios.setdefault(peer, []).append(seconds / bound)
        measured += _told(case, ratios)
    ratios = {}
    for seed in range(few):
        run.step(f"{FEW}, seed {seed}")
        tasks = few_tasks(12, seed)
        seconds = {OURS: ours(tasks, SMALL, UNBOUNDED), DEFAULT: ours(tasks, SMALL, K), FIFO: fifo(tasks, SMALL)}
        best = Search(tasks, SMALL, min(seconds.values())).run()
        for peer, value in {**seconds, BOUND: area_bound(tasks, SMALL)}.items():
            ratios.setdefault(peer, []).append(value / best)
    measured += _told(FEW, ratios)
    run.step(REAL)
    tasks = few_tasks(12, 0)
    took = _in_threads(tasks) / SCALE / ours(tasks, SMALL, UNBOUNDED)
    return [*measured, Measured(case=REAL, peer=OURS, metric=f"ratio to {VIRTUAL}", value=took, unit="ratio")]


def _many(tasks: list[Task], seed: int) -> dict[str, float]:
    return {
        OURS: ours(tasks, MACHINE, UNBOUNDED),
        DEFAULT: ours(tasks, MACHINE, K),
        FIFO: fifo(tasks, MACHINE),
        RAY: ray(tasks, MACHINE, seed),
        DASK: dask(tasks, MACHINE),
    }


def _told(case: str, ratios: dict[str, list[float]]) -> list[Measured]:
    return [
        Measured(case=case, peer=peer, metric=metric, value=value, unit="ratio")
        for peer, values in ratios.items()
        for metric, value in (("mean", statistics.mean(values)), ("max", max(values)))
    ]


def _in_threads(tasks: Sequence[Task]) -> float:
    """Run tasks that sleep under real grants; return the seconds from the first request to the last end."""
    from prefect_slots import requires
    from prefect_slots.acquire.engine import close_engine

    names = {"cpus": "cpus", "gpu_mem": "gpu_mem", "mem": "mem"}

    def play(task: Task) -> None:
        amounts = {names[d.resource]: d.on(0) for d in task.needs.demands if d.resource in names}
        licence = "licence" if "licence" in task.needs.resources else None
        with requires(**amounts, license=licence):
            time.sleep(task.seconds * SCALE)

    with _own_machine(), ThreadPoolExecutor(len(tasks)) as threads:
        with requires(cpus=1):
            pass  # the machine is registered, and the first task need not wait for that
        began = time.monotonic()
        for playing in [threads.submit(play, task) for task in tasks]:
            playing.result()
        took = time.monotonic() - began
        close_engine()
    return took


@contextmanager
def _own_machine() -> Generator[None]:
    with tempfile.TemporaryDirectory(prefix="prefect-slots-bench-") as place:
        config = Path(place) / "prefect-slots.toml"
        config.write_text(_CONFIG)
        ours_only = {"PREFECT_SLOTS_CONFIG": str(config), "PREFECT_SLOTS_STATE_DIR": str(Path(place) / "state")}
        os.environ.update(ours_only)
        try:
            yield
        finally:
            for name in ours_only:
                del os.environ[name]


def bars(measured: Sequence[Measured]) -> list[Bar]:
    """Near the bound on each suite, and better than the models in the mean of both, where overtaking is unbounded."""
    found: list[Bar] = []
    for case in (MAPPED, UNLIKE):
        mean = pick(measured, case, OURS, "mean")
        if mean is not None:
            found.append(Bar(text=f"{case}: ours / area bound", value=mean, unit="ratio", at_most=1.15))
    ours = _mean_of_both(measured, OURS)
    for peer in (FIFO, RAY, DASK):
        other = _mean_of_both(measured, peer)
        if ours is not None and other is not None:
            found.append(Bar(text=f"both suites: ours / {peer}", value=ours / other, unit="ratio", at_most=1))
    return found


def _mean_of_both(measured: Sequence[Measured], peer: str) -> float | None:
    means = [mean for case in (MAPPED, UNLIKE) if (mean := pick(measured, case, peer, "mean")) is not None]
    return statistics.mean(means) if len(means) == 2 else None

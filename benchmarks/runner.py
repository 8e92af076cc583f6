"""Items through a flow of three tasks, of which the middle one needs one of two scanners, by each task runner.

Each round is a process of its own, and what is told is the flow's own time: from its call to its return, the start of
the runner's processes and all that goes to the server included. No schedule can end sooner than a first loading, all
analyses two at a time and a last saving. Peers that are not installed are said to be missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec

from benchmarks.case import BOUND, OURS, RAY_QUIET, Bar, Measured, Run, pick
from benchmarks.numbers import median, summary
from benchmarks.stage import staged
from benchmarks.three_steps import ANALYSE, LOAD, PEERS, PROCESSES, SAVE, SLOTS

ITEMS = 40
QUICK_ITEMS = 10
_NEEDS = {"ray": "prefect_ray", "dask": "prefect_dask"}
_DECLARED = f"[resources.scanner]\ncapacity = {SLOTS}\n"


def case_of(items: int) -> str:
    """Return what so many items are called in the tables."""
    return f"{items} items, {PROCESSES} processes, {SLOTS} slots"


def bound(items: int) -> float:
    """Return the seconds that no schedule can beat."""
    return max(LOAD + items * ANALYSE / SLOTS + SAVE, items * (LOAD + ANALYSE + SAVE) / PROCESSES)


def measure(run: Run) -> list[Measured]:
    """Run the flow with each runner that is installed, in turn."""
    rounds, items = (1, QUICK_ITEMS) if run.quick else (4, ITEMS)
    case, best = case_of(items), bound(items)
    missing = [peer for peer in PEERS if peer in _NEEDS and find_spec(_NEEDS[peer]) is None]
    seconds: dict[str, list[float]] = {peer: [] for peer in PEERS if peer not in missing}
    run.expect(1 + rounds * len(seconds) + len(missing))
    with staged(run) as stage, tempfile.TemporaryDirectory(prefix="ray-") as sessions:
        box = stage.machine(_DECLARED)
        env = {**box.env, **RAY_QUIET, "RAY_TMPDIR": sessions, "PREFECT_LOGGING_LEVEL": "CRITICAL"}
        limit = stage.limit(SLOTS)
        stage.seed(limit, ANALYSE)
        for number in range(rounds):
            for peer, times in seconds.items():
                stage.settle()
                run.step(f"round {number + 1} of {rounds}: {peer}")
                times.append(_flow(peer, limit, items, env))
    for peer in missing:
        run.step(f"{peer} is missing: pip install {_NEEDS[peer].replace('_', '-')}")
    return [
        *(each for peer, times in seconds.items() for each in summary(case, peer, times)),
        Measured(case=case, peer=BOUND, metric="median", value=best * 1000, unit="ms"),
        *(
            Measured(case=case, peer=peer, metric="ratio", value=median(times) / best, unit="ratio")
            for peer, times in seconds.items()
        ),
    ]


def _flow(peer: str, limit: str, items: int, env: dict[str, str]) -> float:
    """Return the seconds that one flow run took.

    Raises:
        RuntimeError: if it failed.
    """
    command = [sys.executable, "-m", "benchmarks.three_steps", peer, limit, str(items)]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{peer}: {done.stderr[-2000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    if said["total"] != sum(range(items)):
        raise RuntimeError(f"{peer}: wrong results: {said}")
    return float(said["seconds"])


def bars(measured: Sequence[Measured]) -> list[Bar]:
    """No slower than Prefect's own processes."""
    found: list[Bar] = []
    for case in map(case_of, (ITEMS, QUICK_ITEMS)):
        ours, theirs = pick(measured, case, OURS, "median"), pick(measured, case, "processes", "median")
        if ours is not None and theirs is not None:
            found.append(Bar(text="ours / ProcessPoolTaskRunner", value=ours / theirs, unit="ratio", at_most=1.0))
    return found

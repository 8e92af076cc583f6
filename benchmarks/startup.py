"""What `prefect-slots run` adds to a command, beside what importing Prefect alone costs.

Whole processes, from start to end; the commands take turns, so that a machine that slows down slows all of them. The
bound is Python that does nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.case import BOUND, OURS, PREFECT, Bar, Measured, Run
from benchmarks.crew import clock
from benchmarks.numbers import median, summary

CASE = "start, acquire, run `true`, release"
_CONFIG = """
[gpus]
detect = false
[[gpus.card]]
uuid = "GPU-benchmark-0"
memory = "24GiB"
[license.matlab]
seats = 2
"""


def measure(run: Run) -> list[Measured]:
    """Time each command in turn, several rounds."""
    rounds = 5 if run.quick else 25
    run.expect(rounds)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "prefect-slots.toml").write_text(_CONFIG)
        env = {
            **os.environ,
            "PREFECT_SLOTS_STATE_DIR": str(folder / "state"),
            "PREFECT_SLOTS_COORDINATION": "local",
            "PREFECT_HOME": str(folder / "prefect"),
        }
        ours = [sys.executable, "-m", "prefect_slots", "run", "--gpu-mem", "8", "--license", "matlab", "--", "true"]
        commands = {
            OURS: ours,
            PREFECT: [sys.executable, "-c", "import prefect"],
            BOUND: [sys.executable, "-c", ""],
        }
        for command in commands.values():  # writes the bytecode, registers the machine
            _time(command, env, folder)
        times: dict[str, list[float]] = {peer: [] for peer in commands}
        for number in range(rounds):
            run.step(f"round {number + 1} of {rounds}")
            for peer, command in commands.items():
                times[peer].append(_time(command, env, folder))
    ratio = median(times[OURS]) / median(times[PREFECT])
    return [
        *(each for peer, seconds in times.items() for each in summary(CASE, peer, seconds)),
        Measured(case="`prefect-slots run` / `import prefect`", peer=OURS, metric="ratio", value=ratio, unit="ratio"),
    ]


def bars(measured: Sequence[Measured]) -> list[Bar]:  # noqa: ARG001
    """Return none: the ratio is there to be watched."""
    return []


def _time(command: list[str], env: dict[str, str], folder: Path) -> float:
    began = clock()
    subprocess.run(command, env=env, cwd=folder, check=True)
    return clock() - began

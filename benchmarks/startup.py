"""What `prefect-slots run` adds to a command, beside what importing Prefect alone costs.

Whole processes, from start to end; the commands take turns, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.case import Measured

OURS: Final = "prefect-slots"
PREFECT: Final = "import prefect"
PYTHON: Final = "python"
_CONFIG: Final = """
[gpus]
detect = false
[[gpus.card]]
uuid = "GPU-benchmark-0"
memory = "24GiB"
[license.matlab]
seats = 2
"""


def measure(quick: bool) -> list[Measured]:
    """Time each command in turn, several rounds."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "prefect-slots.toml").write_text(_CONFIG)
        env = {
            **os.environ,
            "PREFECT_SLOTS_STATE_DIR": str(folder / "state"),
            "PREFECT_SLOTS_COORDINATION": "local",
            "PREFECT_HOME": str(folder / "prefect"),
        }
        run = [sys.executable, "-m", "prefect_slots", "run", "--gpu-mem", "8", "--license", "matlab", "--", "true"]
        commands = {
            OURS: run,
            PREFECT: [sys.executable, "-c", "import prefect"],
            PYTHON: [sys.executable, "-c", ""],
        }
        for command in commands.values():  # writes the bytecode, registers the machine
            _time(command, env, folder)
        rounds = [
            {peer: _time(command, env, folder) for peer, command in commands.items()} for _ in range(5 if quick else 25)
        ]
    case = "start, acquire, run `true`, release"
    times = {peer: median(each[peer] for each in rounds) for peer in commands}
    return [
        *(Measured(case=case, peer=peer, metric="median", value=value, unit="ms") for peer, value in times.items()),
        Measured(case=case, peer=PREFECT, metric="ours / peer", value=times[OURS] / times[PREFECT], unit="ratio"),
    ]


def _time(command: list[str], env: dict[str, str], folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=env, cwd=folder, check=True)
    return (time.perf_counter() - began) * 1000

"""Where the chaos is played: machines, each with its own state folder and name, and their processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.chaos.actor import Part
from tests.chaos.plan import fates
from tests.chaos.witness import FLEET, note_end
from tests.support.boxes import Box

FLOATING = "float"
SEATS = 3
CONFIG = f"""
[settings]
worker = "{{name}}"
refresh_seconds = 3
[gpus]
detect = false
[[gpus.card]]
uuid = "GPU-a-{{name}}"
memory = "24GiB"
[[gpus.card]]
uuid = "GPU-b-{{name}}"
memory = "24GiB"
[host]
cpus = 4
mem = "16GiB"
[license.{FLOATING}]
seats = {SEATS}
[license.ansys-{{name}}]
seats = 2
scope = "worker"
[resources.scanner]
capacity = 1
"""
Fates = Iterator[tuple[int, tuple[str, int] | None, bool]]
_ROOT = Path(__file__).parents[2]


class Place:
    """A place on a machine that one process after another takes."""

    def __init__(self, box: Box, folder: Path, stop: Path, slot: int, born: Fates) -> None:
        self._box = box
        self._folder = folder
        self._stop = stop
        self._slot = slot
        self._born = born
        self._started = 0
        self.process: subprocess.Popen[Any] | None = None
        self.interrupted = False
        self.record = ""

    def start(self) -> None:
        """Start the next process here."""
        seed, dies_at, tidy = next(self._born)
        self._started += 1
        self.interrupted = False
        self.record = f"{self._box.name}-{self._slot}-{self._started}.jsonl"
        part = Part(
            seed=seed,
            machine=self._box.name,
            record=str(self._folder / self.record),
            stop=str(self._stop),
            floating=FLOATING,
            dies_at=dies_at,
            tidy=tidy,
        )
        self.process = start(self._box, "tests.chaos.actor", part.as_json(), log=self._log)

    @property
    def _log(self) -> Path:
        return self._folder / f"{Path(self.record).stem}.log"

    @property
    def words(self) -> str:
        """What the process said."""
        return self._log.read_text(errors="replace") if self.record else ""

    @property
    def runs(self) -> bool:
        """Whether a process is here."""
        return self.process is not None and self.process.poll() is None

    def send(self, number: int) -> None:
        """Send a signal; one that ends the process is written down before."""
        assert self.process is not None
        if number in (signal.SIGKILL, signal.SIGTERM):
            note_end(self._folder, self.record)
        elif number == signal.SIGINT:
            self.interrupted = True
        self.process.send_signal(number)


class Machine:
    """One machine: its box, and the places of its processes."""

    def __init__(self, box: Box, folder: Path, stop: Path, seed: int, number: int, processes: int) -> None:
        self.box = box
        self._folder = folder
        self.places = [Place(box, folder, stop, slot, fates(seed, number, slot)) for slot in range(processes)]
        self.bystander: subprocess.Popen[Any] | None = None

    def capacity(self) -> dict[str, int]:
        """Return what there is at each place of the record."""
        name = self.box.name
        return {
            f"{name}/GPU-a-{name}": 24576,
            f"{name}/GPU-b-{name}": 24576,
            f"{name}/mem": 16384,
            f"{name}/cpus": 4,
            f"{name}/scanner": 1,
            f"{name}/license.ansys-{name}": 2,
            f"{FLEET}/license.{FLOATING}": SEATS,
        }

    def start_bystander(self) -> None:
        """Start the process that stays when all others have ended."""
        log = self._folder / f"{self.box.name}-bystander.log"
        self.bystander = start(self.box, "tests.chaos.bystander", log=log, stdin=subprocess.PIPE)

    def end_bystander(self) -> None:
        """Let it end as it does when its worker ends."""
        if self.bystander is not None:
            self.bystander.communicate(timeout=60)


def start(box: Box, module: str, *arguments: str, log: Path, **options: Any) -> subprocess.Popen[Any]:
    """Start a program of ours on a machine, away from the terminal's Ctrl-C."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "WORKER_ID"))} | box.env
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=_ROOT,
            env=env,
            stdout=file,
            stderr=file,
            start_new_session=True,
            **options,
        )


def end_at_once(process: subprocess.Popen[Any] | None) -> None:
    """Leave nothing running, whatever happened."""
    if process is not None and process.poll() is None:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait(10)

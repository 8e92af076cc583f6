"""The pin of a task process, fixed from its birth: GPUs, cores, numbers of threads.

A process never changes its pin, because libraries read the variables when they are imported and a CUDA context stays.
The ledger counts cores and does not number them; pools agree on the numbers by locks on files.
"""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prefect_slots.ledger.folder import share
from prefect_slots.model import gpu
from prefect_slots.model.resource import CPUS
from prefect_slots.requiring.grant import Grant, pinned

# Read by each library when it is imported. Without them each of several processes starts a thread per core.
_THREADS: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)


@dataclass(frozen=True)
class Pin:
    """GPUs by UUID, and the number of cores asked for; processes of equal pins are interchangeable."""

    gpus: tuple[str, ...] = ()
    cores: int = 0

    def environment(self) -> dict[str, str]:
        """Return the whole environment of a process with this pin."""
        env = dict(os.environ)
        gpu.pin(env, self.gpus)
        if self.cores:
            env.update(dict.fromkeys(_THREADS, str(self.cores)))
        return env


def pin_of(grant: Grant) -> Pin:
    """Return the pin for tasks under a grant."""
    return Pin(pinned(grant), grant.amounts.get(CPUS, 0))


def core_count() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Cores:
    """Cores for one holder alone among all pools of the machine, until it gives them back or dies.

    Attributes:
        numbers: Empty if too few were free: the process then runs on all cores, and the kernel finds room for it.
    """

    def __init__(self, folder: Path | None, count: int) -> None:
        self.numbers: set[int] = set()
        self._files: list[int] = []
        if folder is None or not count or not hasattr(os, "sched_getaffinity"):
            return
        place = folder / "cores"
        place.mkdir(exist_ok=True)
        share(place)
        for number in sorted(os.sched_getaffinity(0)):
            if self._lock(place / str(number)):
                self.numbers.add(number)
            if len(self.numbers) == count:
                return
        # A part of the cores would throttle the task and keep them from another that they would suffice for.
        self.give_back()

    def _lock(self, path: Path) -> bool:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._files.append(file)
        return True

    def give_back(self) -> None:
        """Release the cores to other holders."""
        self.numbers = set()
        while self._files:
            os.close(self._files.pop())

"""What a task process is bound to from birth: cards, cores, numbers of threads.

A process never changes its pin: what a library has read at import, a CUDA context above all, stays. The ledger counts
cores and does not name them; which ones a process is bound to is agreed between pools by locks on files.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prefect_slots.ledger.folder import share
from prefect_slots.model import gpu
from prefect_slots.model.resource import CPUS
from prefect_slots.requiring.grant import Grant, pinned

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
    """GPUs by UUID, and how many cores were asked for; processes of equal pins are interchangeable."""

    gpus: tuple[str, ...] = ()
    cores: int = 0

    def environment(self) -> dict[str, str]:
        """Return a whole environment for a process that is bound so."""
        env = dict(os.environ)
        gpu.pin(env, self.gpus)
        if self.cores:
            env.update(dict.fromkeys(_THREADS, str(self.cores)))
        return env


def pin_of(grant: Grant | None) -> Pin:
    """Return what a task under `grant` is bound to."""
    if grant is None:
        return Pin()
    return Pin(pinned(grant), grant.amounts.get(CPUS, 0))


def core_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Cores:
    """Cores that are this holder's own among all pools of the machine, until they are given back or it dies.

    Attributes:
        numbers: Empty if too few were free: the process then runs on all, and the kernel finds room for it.
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
        """Let others be bound to them."""
        self.numbers = set()
        while self._files:
            os.close(self._files.pop())

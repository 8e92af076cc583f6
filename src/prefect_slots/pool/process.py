"""A task process: its pin, its start, its two connections, its end with all that it has started, its traces.

The pin is fixed from birth: GPUs, cores, numbers of threads. A process never changes it, because libraries read the
variables when they are imported and a CUDA context stays. The ledger counts cores and does not number them; pools agree
on the numbers by locks on files.

A task process leads a process group of its own, so that a task's children end with it. It inherits the lock that proves
the pool alive: the pool's cells stay taken until the process is really gone.
"""

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil

from prefect_slots.ledger.folder import share
from prefect_slots.model import CPUS, gpu
from prefect_slots.pool.wire import Wire
from prefect_slots.requiring.grant import Grant, pinned
from prefect_slots.system.sysfs import ROOT, text_of

# Read by each library when it is imported. Without them each of several processes starts a thread per core.
_THREADS = (
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
# Time for exit handlers and the flush of files; a task's own thread that runs on would hold the place for ever.
_ENDING_SECONDS = 2.0
# The next task waits for this end, which takes an idle interpreter a few milliseconds.
_LOOK_SECONDS = 0.002
# `poll` takes milliseconds as a C int, 24 days at most.
_LONGEST_WAIT = 86400.0
# Everything that has touched CUDA, ROCm, oneAPI or a TPU has one of these files open.
_DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri/", "/dev/accel", "/dev/vfio/")
# An interpreter with its usual libraries stays below; a data set that a task has left does not.
_KEPT_BYTES = 256 * 2**20
_BEGIN = """\
import sys
sys.path[:] = {path!r}
from prefect_slots.pool.child import main
main({pool!r}, {tasks}, {side}, {parent})
"""


@dataclass(frozen=True)
class Pin:
    """GPUs, and the number of cores asked for; processes of equal pins are interchangeable."""

    gpus: tuple[gpu.Gpu, ...] = ()
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


class Process:
    """A running task process.

    Attributes:
        tasks: The connection for calls.
        side: The connection on which its tasks speak to the pool.
    """

    def __init__(self, pool: str, pin: Pin, folder: Path | None, lock: int | None) -> None:
        """Start it; the calling thread must live as long as it, because it dies with that thread."""
        self._cores = Cores(folder, pin.cores)
        pairs = (socket.socketpair(), socket.socketpair())
        theirs = [their.fileno() for _, their in pairs]
        # The same search path, so that all modules of the program are found there by the same names.
        begin = _BEGIN.format(
            path=[entry for entry in sys.path if isinstance(entry, str)],  # pyright: ignore[reportUnnecessaryIsInstance]
            pool=pool,
            tasks=theirs[0],
            side=theirs[1],
            parent=os.getpid(),
        )
        try:
            self._popen = subprocess.Popen(
                [sys.executable, *["-O"] * sys.flags.optimize, "-c", begin],
                env=pin.environment(),
                # A task that reads standard input would take it from the program, and could stop at the terminal.
                stdin=subprocess.DEVNULL,
                pass_fds=[*theirs, *([lock] if lock is not None else [])],
                process_group=0,
            )
        except BaseException:
            self._cores.give_back()
            for ours, _ in pairs:
                ours.close()
            raise
        finally:
            for _, their in pairs:
                their.close()
        self.pid = self._popen.pid
        # Set from outside, before the interpreter is up: all its threads inherit it.
        if self._cores.numbers:
            with suppress(OSError):
                os.sched_setaffinity(self.pid, self._cores.numbers)
        self.tasks, self.side = (Wire(ours) for ours, _ in pairs)
        self._poll = select.poll()
        for wire in (self.tasks, self.side):
            self._poll.register(wire.fileno(), select.POLLIN)

    @cached_property
    def started(self) -> float:
        """The start, a Unix time in seconds: the process id alone may be another process's one day."""
        return psutil.Process(self.pid).create_time()

    def speaks(self, seconds: float | None) -> list[int]:
        """Return the descriptors of the connections with something to read; none once time is up, or a day."""
        # One millisecond more: a remainder of less would be waited for in a busy loop.
        wait = None if seconds is None else min(seconds, _LONGEST_WAIT) * 1000 + 1
        return [file for file, _ in self._poll.poll(wait)]

    def kill(self) -> None:
        """Kill it and all that it has started; `end` must follow."""
        # Not reaped yet, its number cannot be another process's.
        if self._popen.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """Kill it, wait for its end, and return its exit code, negative for a signal."""
        self.kill()
        code = self._popen.wait()
        self.tasks.close()
        self.side.close()
        self._cores.give_back()
        return code

    def retire(self) -> None:
        """Let it end as a program does, and kill the rest after a moment."""
        self.tasks.close()
        until = time.monotonic() + _ENDING_SECONDS
        # Not reaped before the rest of its group is killed: its number would be free for another group.
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > until:
                break
            time.sleep(_LOOK_SECONDS)
        self.end()


def holds_device(pid: int, root: Path = ROOT) -> bool:
    """Return whether a process has a device's file open.

    A framework keeps GPU memory for its next call: the next holder of that memory would find it taken.
    """
    with suppress(OSError):
        for file in (root / f"proc/{pid}/fd").iterdir():
            # It may have been closed meanwhile.
            with suppress(OSError):
                if str(file.readlink()).startswith(_DEVICES):
                    return True
    return False


def holds_memory(pid: int, root: Path = ROOT) -> bool:
    """Return whether a process keeps more than 256 MiB that no other process shares."""
    fields = text_of(root / f"proc/{pid}/statm").split()
    return len(fields) > 2 and (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") > _KEPT_BYTES

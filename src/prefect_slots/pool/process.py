"""A task process: its start with a pin, its two connections, its end with all that it has started, its traces.

It leads a process group of its own, so that a task's children end with it. It inherits the lock that proves the pool
alive: the pool's cells stay taken until the process is really gone.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Final

import psutil

from prefect_slots.pool.pinning import Cores, Pin
from prefect_slots.pool.wire import Wire
from prefect_slots.system.sysfs import ROOT, text_of

# Time for exit handlers and the flush of files; a task's own thread that runs on would hold the place for ever.
_ENDING_SECONDS: Final = 2.0
# The next task waits for this end, which takes an idle interpreter a few milliseconds.
_LOOK_SECONDS: Final = 0.002
# `poll` takes milliseconds as a C int, 24 days at most.
_LONGEST_WAIT: Final = 86400.0
# Everything that has touched CUDA, ROCm, oneAPI or a TPU has one of these files open.
_DEVICES: Final = ("/dev/nvidia", "/dev/kfd", "/dev/dri/", "/dev/accel", "/dev/vfio/")
# An interpreter with its usual libraries stays below; a data set that a task has left does not.
_KEPT_BYTES: Final = 256 * 2**20
_BEGIN: Final = """\
import sys
sys.path[:] = {path!r}
from prefect_slots.pool.child import main
main({pool!r}, {tasks}, {side}, {parent})
"""


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
    try:
        return any(_target(file).startswith(_DEVICES) for file in (root / f"proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _target(file: Path) -> str:
    try:
        return str(file.readlink())
    except OSError:
        return ""  # closed meanwhile


def holds_memory(pid: int, root: Path = ROOT) -> bool:
    """Return whether a process keeps more than 256 MiB that no other process shares."""
    fields = text_of(root / f"proc/{pid}/statm").split()
    return len(fields) > 2 and (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") > _KEPT_BYTES

"""A task process at work: it gets tasks one after another, and is killed and replaced where a task's end demands it."""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import NamedTuple

from prefect_slots.errors import TaskDied, TaskTimeout
from prefect_slots.model import MEM
from prefect_slots.pool import child, process, wire
from prefect_slots.pool.grants import GrantClient, PoolGrant
from prefect_slots.pool.task import Task
from prefect_slots.system.cgroups import oom_kills

# The grant of a process that has been told of none.
_NONE = PoolGrant()


class Outcome(NamedTuple):
    """The end of a task: a value for its future's `read`, or an error."""

    value: wire.Packed | None
    error: BaseException | None


@dataclass(frozen=True)
class Setup:
    """The settings that all workers of a pool have in common.

    Attributes:
        pool: The pool's name.
        preparation: A packed call that each new process makes before its first task.
        hear: Called with the connection on which a running task speaks to the pool, and the task.
    """

    pool: str
    grants: GrantClient
    preparation: wire.Packed | None
    hear: Callable[[wire.Wire, Task], None]


class Worker:
    """A task process and the task that it runs.

    The process starts with the first task, and dies with the thread that has called `begin`.
    """

    def __init__(self, pin: process.Pin, setup: Setup) -> None:
        self.pin = pin
        self._setup = setup
        self._process: process.Process | None = None
        self._grant = self._noted = _NONE
        # Held for a kill, so that no process is killed for a task that it runs no longer.
        self._killing = threading.Lock()
        self._task: Task | None = None
        self._until: float | None = None
        self._kills = 0

    @property
    def is_alive(self) -> bool:
        """True if there is a process, fit for another task."""
        return self._process is not None

    def kill(self, task: Task) -> None:
        """Kill the process if it runs that task."""
        with self._killing:
            if self._task is task and self._process is not None:
                self._process.kill()

    def retire(self) -> None:
        """End the process, if there is one, as a program ends."""
        ended, self._process = self._process, None
        if ended is not None:
            ended.retire()

    def retire_if_soiled(self, grant: PoolGrant) -> None:
        """End the process if tasks have left GPU or system memory in it that their grant no longer covers."""
        if self._process is None or grant.held is None:
            return
        pid = self._process.pid
        asked_memory = any(cell.resource == MEM for cell, _ in grant.held.holdings)
        if process.holds_device(pid) or (asked_memory and process.holds_memory(pid)):
            self.retire()

    def begin(self, task: Task, grant: PoolGrant) -> Outcome | None:
        """Begin a task, or return its end if it ended at once; a process that was killed while idle is replaced."""
        if task.future.cancelled():
            return Outcome(None, CancelledError())
        is_fresh = self._process is None
        try:
            failed = self._start(task, grant) if is_fresh else None
            if failed is not None:
                return failed
            self._send(task, grant)
        # Killed while idle, the process has not begun the task: a new one can.
        except ConnectionError:
            died = self._death(task)
            return Outcome(None, died) if is_fresh else self.begin(task, grant)
        except Exception as error:
            return Outcome(None, error)
        self._watch(task)
        return None

    def _start(self, task: Task, grant: PoolGrant) -> Outcome | None:
        """Start the process and prepare it; return the end of the task, if that failed."""
        self._kills = oom_kills()
        grants, preparation = self._setup.grants, self._setup.preparation
        self._process = process.Process(self._setup.pool, self.pin, grants.folder, grants.lock())
        self._grant = self._noted = _NONE
        if preparation is None:
            return None
        self._process.tasks.send(wire.Kind.CALL, preparation)
        self._note(grant)
        self._watch(task)
        outcome = self.answer(task)
        if outcome.error is None:
            return None
        self.retire()
        return outcome

    def _send(self, task: Task, grant: PoolGrant) -> None:
        assert self._process is not None
        if grant is not self._grant:
            told = (grant.token, grant.folder, grant.sent, task.request.label)
            self._process.tasks.send(wire.Kind.GRANT, wire.pack(told))
            self._grant = grant
        self._process.tasks.send(wire.Kind.CALL, task.call)
        self._note(grant)

    def _note(self, grant: PoolGrant) -> None:
        """Note the grant that the process's memory counts for; after the call is sent, which must not wait for it."""
        if grant is not self._noted and self._process is not None:
            self._setup.grants.note_serving(self._process, self._noted, grant)
            self._noted = grant

    def _watch(self, task: Task) -> None:
        """Have the task, which runs now, killed when it is cancelled or its time is over."""
        assert self._process is not None
        limit = task.request.limit
        self._until = None if limit is None else time.monotonic() + limit
        with self._killing:
            self._task = task
        # Cancelled before the line above, it was not killed by `kill`.
        if task.future.cancelled():
            self._process.kill()

    def answer(self, task: Task) -> Outcome:
        """Wait until a task that has begun ends, and return its end."""
        running = self._process
        assert running is not None
        try:
            while True:
                left = None if self._until is None else max(0.0, self._until - time.monotonic())
                ready = running.speaks(left)
                # An answer that came in time counts, though it may be read late.
                if left == 0 and running.tasks.fileno() not in ready:
                    self._end()
                    return Outcome(None, TaskTimeout(task=task.request.label, seconds=task.request.limit or 0.0))
                # Submissions first: the answer ends the task, and with it all that it has submitted.
                if running.side.fileno() in ready:
                    self._setup.hear(running.side, task)
                elif running.tasks.fileno() in ready:
                    kind, packed = running.tasks.receive()
                    return Outcome(packed, None) if kind is wire.Kind.DONE else Outcome(None, child.raised(packed))
        except (EOFError, OSError):
            return Outcome(None, self._death(task))
        finally:
            with self._killing:
                self._task = None

    def _death(self, task: Task) -> TaskDied:
        assert self._process is not None
        task_name, pid, code = task.request.label, self._process.pid, self._end()
        if code >= 0:
            return TaskDied(task=task_name, pid=pid, exit_code=code)
        over_declared = self._setup.grants.was_ended(self._noted)
        # A best guess: the kernel counts its kills for the whole cgroup, and does not name the processes.
        out_of_memory = -code == signal.SIGKILL and not over_declared and oom_kills() > self._kills
        return TaskDied(task=task_name, pid=pid, signal=-code, out_of_memory=out_of_memory, over_declared=over_declared)

    def _end(self) -> int:
        with self._killing:
            ended, self._process = self._process, None
        assert ended is not None
        return ended.end()

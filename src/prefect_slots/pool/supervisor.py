"""One thread per task process: starts it, gives it tasks one after another, and sees its end.

The thread lives as long as the process, which dies with it.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Final, NamedTuple

from prefect_slots.errors import LeaseLost, TaskDied, TaskTimeout
from prefect_slots.model.resource import MEM
from prefect_slots.pool import remains
from prefect_slots.pool.child import raised
from prefect_slots.pool.dispatch import Job
from prefect_slots.pool.grants import GrantClient, PoolGrant
from prefect_slots.pool.process import Process
from prefect_slots.pool.task import Task, settle
from prefect_slots.pool.wire import Kind, Packed, pack
from prefect_slots.system.cgroups import oom_kills

if TYPE_CHECKING:
    from prefect_slots.pool.pool import SlotPool

_FIRST: Final = PoolGrant()


class Outcome(NamedTuple):
    """How a task ended: with a value for its future's `read`, or with an error."""

    value: Packed | None
    error: BaseException | None


class Supervisor(threading.Thread):
    """The thread of one task process.

    Attributes:
        pin: What the process is bound to.
    """

    def __init__(self, pool: SlotPool, job: Job, grants: GrantClient | None) -> None:
        super().__init__(name=f"prefect-slots-pool-{job.grant.pin}", daemon=True)
        self.pin = job.grant.pin
        self._pool = pool
        self._grants = grants
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs.put(job)
        self._process: Process | None = None
        self._grant = self._noted = _FIRST
        self._killing = threading.Lock()
        self._task: Task | None = None
        self._until: float | None = None
        self._kills = 0

    def give(self, job: Job | None) -> None:
        """Do a job next; `None` ends the process. Only for an idle one."""
        self._jobs.put(job)

    def kill(self, task: Task) -> None:
        """Kill the process if it runs that task."""
        with self._killing:
            if self._task is task and self._process is not None:
                self._process.kill()

    def run(self) -> None:
        """Serve until there is nothing to do for a while, or the process is no more."""
        try:
            while (job := self._next()) is not None:
                if not self._serve(job):
                    return
        finally:
            self._retire()
            self._pool.left(self)

    def _next(self) -> Job | None:
        while True:
            try:
                return self._jobs.get(timeout=min(self._pool.idle_seconds, threading.TIMEOUT_MAX))
            except queue.Empty:
                if self._pool.may_leave(self):
                    return None

    def _serve(self, first: Job) -> bool:
        """Do a job and those that follow it under the same grant; return whether the process is fit for more."""
        job, outcome = first, self._begin(first)
        while True:
            outcome = outcome or self._answer(job.task)
            self._pool.end_inner(job.task)
            following: Job | None = None
            if self._pool.is_strict and job.grant.id:
                outcome = self._insist(job, outcome)
            elif self._process is not None:
                following = self._pool.following(job, turn_is_over=self._turn_is_over(job))
            # The next task begins before anybody is told of this one's end: that may take long.
            ahead = self._begin(following) if following is not None else None
            settle(job.task.future, job.task.read, *outcome)
            if following is None:
                break
            job, outcome = following, ahead
        if self._process is not None and self._is_soiled(self._process.pid, job.grant):
            self._retire()
        self._pool.finished(job, self if self._process is not None else None)
        return self._process is not None

    def _turn_is_over(self, job: Job) -> bool:
        return time.monotonic() - job.since > self._pool.turn_seconds

    def _insist(self, job: Job, outcome: Outcome) -> Outcome:
        lost = self._grants.give_back(job.grant) if self._grants is not None else None
        if lost is not None and outcome.error is None:
            return Outcome(None, LeaseLost(limit=lost, grant=job.grant.id))
        return outcome

    def _is_soiled(self, pid: int, grant: PoolGrant) -> bool:
        """Whether a task has left in its process what its grant will no longer cover."""
        if grant.held is None:
            return False
        asked_memory = any(cell.resource == MEM for cell, _ in grant.held.holdings)
        return remains.holds_device(pid) or (asked_memory and remains.holds_memory(pid))

    def _retire(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.retire()

    # One task

    def _begin(self, job: Job) -> Outcome | None:
        """Have a task begun, or return how it ended; a process that was killed while it was idle is replaced."""
        job.since = job.since or time.monotonic()
        task = job.task
        if task.future.cancelled():
            return Outcome(None, CancelledError())
        is_fresh = self._process is None
        try:
            failed = self._start(task, job.grant) if is_fresh else None
            if failed is not None:
                return failed
            self._send(task, job.grant)
        except ConnectionError:
            died = self._death(task)
            return Outcome(None, died) if is_fresh else self._begin(job)
        except Exception as error:
            return Outcome(None, error)
        self._watch(task)
        return None

    def _start(self, task: Task, grant: PoolGrant) -> Outcome | None:
        """Start the process and prepare it; return how the task ended, if that failed."""
        self._kills = oom_kills()
        self._process = self._pool.new_process(self.pin)
        self._grant = self._noted = _FIRST
        preparation = self._pool.preparation
        if preparation is None:
            return None
        self._process.tasks.send(Kind.CALL, preparation)
        self._note(grant)
        self._watch(task)
        outcome = self._answer(task)
        if outcome.error is None:
            return None
        self._retire()
        return outcome

    def _send(self, task: Task, grant: PoolGrant) -> None:
        assert self._process is not None
        if grant is not self._grant:
            told = (grant.token, grant.folder, grant.sent, task.order.label)
            self._process.tasks.send(Kind.GRANT, pack(told))
            self._grant = grant
        self._process.tasks.send(Kind.CALL, task.call)
        self._note(grant)

    def _note(self, grant: PoolGrant) -> None:
        """Have noted whose memory the process's is, once it has been told what to do: that must not wait for it."""
        if grant is not self._noted and self._grants is not None and self._process is not None:
            self._grants.note_serving(self._process, self._noted, grant)
            self._noted = grant

    def _watch(self, task: Task) -> None:
        """Let a task that runs now be killed when it is cancelled or its time is over."""
        assert self._process is not None
        limit = task.order.limit
        self._until = None if limit is None else time.monotonic() + limit
        with self._killing:
            self._task = task
        if task.future.cancelled():
            self._process.kill()

    def _answer(self, task: Task) -> Outcome:
        process = self._process
        assert process is not None
        try:
            while True:
                left = None if self._until is None else max(0.0, self._until - time.monotonic())
                ready = process.speaks(left)
                # What came in time counts, though it may be read late.
                if left == 0 and process.tasks.fileno() not in ready:
                    self._end()
                    return Outcome(None, TaskTimeout(task=task.order.label, seconds=task.order.limit or 0.0))
                if process.side.fileno() in ready:
                    self._pool.hear(process.side, task)
                elif process.tasks.fileno() in ready:
                    kind, packed = process.tasks.receive()
                    if kind is Kind.DONE:
                        return Outcome(packed, None)
                    return Outcome(None, raised(packed))
        except (EOFError, OSError):
            return Outcome(None, self._death(task))
        finally:
            with self._killing:
                self._task = None

    def _death(self, task: Task) -> TaskDied:
        assert self._process is not None
        pid, code = self._process.pid, self._end()
        if code >= 0:
            return TaskDied(task=task.order.label, pid=pid, exit_code=code)
        over_declared = self._grants is not None and self._grants.was_ended(self._noted)
        out_of_memory = -code == signal.SIGKILL and not over_declared and oom_kills() > self._kills
        return TaskDied(
            task=task.order.label, pid=pid, signal=-code, out_of_memory=out_of_memory, over_declared=over_declared
        )

    def _end(self) -> int:
        with self._killing:
            process, self._process = self._process, None
        assert process is not None
        return process.end()

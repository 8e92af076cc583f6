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
from prefect_slots.pool.grants import Asking, Using
from prefect_slots.pool.process import Process
from prefect_slots.pool.task import Task, settle
from prefect_slots.pool.wire import Kind, Packed, pack
from prefect_slots.system.cgroups import oom_kills

if TYPE_CHECKING:
    from prefect_slots.pool.pool import SlotPool

_FIRST: Final = Using()


class Outcome(NamedTuple):
    """How a task ended: with a value for its future's `read`, or with an error."""

    value: Packed | None
    error: BaseException | None


class Driver(threading.Thread):
    """The thread of one task process.

    Attributes:
        pin: What the process is bound to.
    """

    def __init__(self, pool: SlotPool, job: Job, asking: Asking | None) -> None:
        super().__init__(name=f"prefect-slots-pool-{job.using.pin}", daemon=True)
        self.pin = job.using.pin
        self._pool = pool
        self._asking = asking
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs.put(job)
        self._process: Process | None = None
        self._using = self._noted = _FIRST
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
            if self._pool.is_strict and job.using.grant:
                outcome = self._insist(job, outcome)
            elif self._process is not None:
                following = self._pool.following(job, turn_is_over=self._turn_is_over(job))
            # The next task begins before anybody is told of this one's end: that may take long.
            ahead = self._begin(following) if following is not None else None
            settle(job.task.future, job.task.read, *outcome)
            if following is None:
                break
            job, outcome = following, ahead
        if self._process is not None and self._is_soiled(self._process.pid, job.using):
            self._retire()
        self._pool.finished(job, self if self._process is not None else None)
        return self._process is not None

    def _turn_is_over(self, job: Job) -> bool:
        return time.monotonic() - job.since > self._pool.turn_seconds

    def _insist(self, job: Job, outcome: Outcome) -> Outcome:
        lost = self._asking.give_back(job.using) if self._asking is not None else None
        if lost is not None and outcome.error is None:
            return Outcome(None, LeaseLost(limit=lost, grant=job.using.grant))
        return outcome

    def _is_soiled(self, pid: int, using: Using) -> bool:
        """Whether a task has left in its process what its grant will no longer cover."""
        if using.held is None:
            return False
        asked_memory = any(cell.resource == MEM for cell, _ in using.held.holdings)
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
            failed = self._start(task, job.using) if is_fresh else None
            if failed is not None:
                return failed
            self._send(task, job.using)
        except ConnectionError:
            died = self._death(task)
            return Outcome(None, died) if is_fresh else self._begin(job)
        except Exception as error:
            return Outcome(None, error)
        self._watch(task)
        return None

    def _start(self, task: Task, using: Using) -> Outcome | None:
        """Start the process and prepare it; return how the task ended, if that failed."""
        self._kills = oom_kills()
        self._process = self._pool.new_process(self.pin)
        self._using = self._noted = _FIRST
        preparation = self._pool.preparation
        if preparation is None:
            return None
        self._process.tasks.send(Kind.CALL, preparation)
        self._note(using)
        self._watch(task)
        outcome = self._answer(task)
        if outcome.error is None:
            return None
        self._retire()
        return outcome

    def _send(self, task: Task, using: Using) -> None:
        assert self._process is not None
        if using is not self._using:
            told = (using.token, using.folder, using.sent, task.order.label)
            self._process.tasks.send(Kind.GRANT, pack(told))
            self._using = using
        self._process.tasks.send(Kind.CALL, task.call)
        self._note(using)

    def _note(self, using: Using) -> None:
        """Have noted whose memory the process's is, once it has been told what to do: that must not wait for it."""
        if using is not self._noted and self._asking is not None and self._process is not None:
            self._asking.note_serving(self._process, self._noted, using)
            self._noted = using

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
        over_declared = self._asking is not None and self._asking.was_ended(self._noted)
        out_of_memory = -code == signal.SIGKILL and not over_declared and oom_kills() > self._kills
        return TaskDied(
            task=task.order.label, pid=pid, signal=-code, out_of_memory=out_of_memory, over_declared=over_declared
        )

    def _end(self) -> int:
        with self._killing:
            process, self._process = self._process, None
        assert process is not None
        return process.end()

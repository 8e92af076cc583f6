"""Who does what next: tasks in lines, grants and processes, decided under one lock, with no I/O and no clock.

Tasks of one shape stand in one line, and at most one ticket waits in the ledger for a whole line: its grant goes to the
first task, and the next is asked for at once. So a thousand tasks of one kind do not stand before another pool's one.
Each method returns what is then to be done, by the caller, outside the lock.

A task that was submitted by a running task may start although all processes are taken, as long as no other of that
task's runs: so whoever waits for what it has submitted waits for something that goes on, however deep.
"""

from __future__ import annotations

import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from prefect_slots.pool.grants import Using
from prefect_slots.pool.pinning import Pin
from prefect_slots.pool.task import Task

if TYPE_CHECKING:
    from prefect_slots.acquire.request import Parent
    from prefect_slots.model.requirement import Requirement


class Seat(Protocol):
    """A task process as the board sees it."""

    @property
    def pin(self) -> Pin:
        """What it is bound to."""
        ...


@dataclass(frozen=True)
class Shape:
    """What makes tasks interchangeable to the ledger; `within` is the task that submitted them, if one did."""

    requirement: Requirement | None
    priority: int
    expected: float | None
    parent: Parent | None
    within: Task | None


@dataclass(eq=False)
class Line:
    """The waiting tasks of one shape, oldest first.

    Attributes:
        ticket: By which the line waits in the ledger, if it does.
        reason: Why it waits, once that is known.
        running: How many of its tasks run.
    """

    shape: Shape
    tasks: deque[Task] = field(default_factory=deque[Task])
    ticket: str | None = None
    reason: str = ""
    running: int = 0


@dataclass(eq=False)
class Job:
    """A task that runs, under the grant that it uses.

    Attributes:
        extra: It runs although all processes are taken.
        since: When its process began to serve its line without a break.
    """

    task: Task
    line: Line
    using: Using
    extra: bool
    since: float = 0.0


@dataclass(frozen=True)
class Ask:
    """Ask for a grant for the first task of a line."""

    line: Line
    ticket: str


@dataclass(frozen=True)
class Withdraw:
    """End a request or grant, whatever state it is in."""

    ticket: str


@dataclass(frozen=True)
class Run:
    """Have a job done, by an idle process or a new one."""

    job: Job
    seat: Seat | None


@dataclass(frozen=True)
class Retire:
    """End an idle process: its place is needed."""

    seat: Seat


Act = Ask | Withdraw | Run | Retire


class Board:
    """The pool's state; every method is called with the pool's lock held.

    Args:
        most: How many tasks may run at once, or `None` for as many as the ledger grants.
        most_free: How many of those that ask for nothing.
        free: What tasks that ask for nothing use.
    """

    def __init__(self, most: int | None, most_free: int) -> None:
        self.lines: dict[Shape, Line] = {}
        self.idle: dict[Pin, list[Seat]] = {}
        self.jobs: dict[Task, Job] = {}
        self.processes = 0
        self._most = most
        self._most_free = most_free
        self._running = 0
        self._running_free = 0

    @property
    def is_empty(self) -> bool:
        """Whether no task waits or runs."""
        return not self.jobs and not any(line.tasks for line in self.lines.values())

    def add(self, task: Task) -> list[Act]:
        """A task was submitted."""
        order = task.order
        shape = Shape(order.requirement, order.priority, order.expected, order.parent, task.within)
        line = self.lines.get(shape)
        if line is None:
            line = self.lines[shape] = Line(shape)
        task.line = line
        line.tasks.append(task)
        if task.within is not None:
            task.within.inner.add(task)
        return self._look(line)

    def drop(self, task: Task) -> list[Act]:
        """A waiting task was cancelled, or has waited too long."""
        line = task.line
        if line is None or task not in line.tasks:
            return []
        line.tasks.remove(task)
        self._forget(task)
        return self._look(line)

    def granted(self, line: Line, ticket: str, using: Using) -> list[Act]:
        """The ledger granted what a line asked for."""
        if line.ticket != ticket:
            return []  # withdrawn meanwhile, and so is the grant
        line.ticket = None
        line.reason = ""
        # All processes may have been taken since it asked. To hold on to the grant while waiting for one would be to
        # hold while waiting, which can deadlock.
        acts = self._start(line, using) if self._has_room(line) else None
        return [*(acts or [Withdraw(ticket)]), *self._look(line)]

    def refused(self, line: Line, ticket: str) -> tuple[Task | None, list[Act]]:
        """The ledger refused what a line asked for; return the task to fail, too."""
        if line.ticket != ticket:
            return None, []
        line.ticket = None
        task = line.tasks.popleft() if line.tasks else None
        if task is not None:
            self._forget(task)
        return task, self._look(line)

    def next_of(self, job: Job) -> Job | None:
        """Return the line's next task for the process and the grant that `job` has had, if there is one."""
        task = self._pop(job.line)
        if task is None:
            return None
        self._forget(job.task)
        del self.jobs[job.task]
        following = Job(task, job.line, job.using, job.extra, job.since)
        self.jobs[task] = following
        return following

    def ended(self, job: Job, seat: Seat | None) -> list[Act]:
        """A job is done, its grant is given back, and `seat` is idle or gone."""
        del self.jobs[job.task]
        self._forget(job.task)
        job.line.running -= 1
        if job.task.within is not None:
            job.task.within.lent -= 1
        if not job.extra:
            self._running -= 1
            self._running_free -= job.line.shape.requirement is None
        if seat is None:
            self.processes -= 1
        else:
            self.idle.setdefault(seat.pin, []).append(seat)
        # Other lines first: whoever has just run has had its turn.
        self.lines[job.line.shape] = self.lines.pop(job.line.shape)
        return self._look_at_all()

    def retired(self, seat: Seat) -> bool:
        """An idle process wants to end; return whether it may: it may have been given a job just now."""
        idle = self.idle.get(seat.pin, [])
        if seat not in idle:
            return False
        idle.remove(seat)
        if not idle:
            del self.idle[seat.pin]
        self.processes -= 1
        return True

    def retire_all(self) -> list[Act]:
        """End every idle process."""
        seats = [seat for idle in self.idle.values() for seat in idle]
        self.idle.clear()
        self.processes -= len(seats)
        return [Retire(seat) for seat in seats]

    def waiting(self) -> list[Task]:
        """Return the tasks that wait."""
        return [task for line in self.lines.values() for task in line.tasks]

    def _look_at_all(self) -> list[Act]:
        acts: list[Act] = []
        for line in list(self.lines.values()):
            acts.extend(self._look(line))
        return acts

    def _look(self, line: Line) -> list[Act]:
        """Start what may start, ask for what is to be asked for, and withdraw what nobody wants any more."""
        acts: list[Act] = []
        if line.shape.requirement is None:
            while line.tasks and self._has_room(line):
                acts.extend(self._start(line, line.tasks[0].under) or [])
        elif line.tasks and line.ticket is None and self._has_room(line):
            line.ticket = uuid.uuid4().hex
            acts.append(Ask(line, line.ticket))
        elif not line.tasks and line.ticket is not None:
            acts.append(Withdraw(line.ticket))
            line.ticket = None
        if not line.tasks and line.ticket is None and not line.running:
            self.lines.pop(line.shape, None)
        return acts

    def _has_room(self, line: Line) -> bool:
        return self._is_first_inner(line) or (
            (self._most is None or self._running < self._most)
            and (line.shape.requirement is not None or self._running_free < self._most_free)
        )

    @staticmethod
    def _is_first_inner(line: Line) -> bool:
        return line.shape.within is not None and line.shape.within.lent == 0

    def _start(self, line: Line, using: Using) -> list[Act] | None:
        task = self._pop(line)
        if task is None:
            return None
        extra = self._is_first_inner(line)
        line.running += 1
        if task.within is not None:
            task.within.lent += 1
        if not extra:
            self._running += 1
            self._running_free += line.shape.requirement is None
        job = Job(task, line, using, extra)
        self.jobs[task] = job
        acts: list[Act] = []
        idle = self.idle.get(using.pin)
        seat = idle.pop() if idle else None
        if idle is not None and not idle:
            del self.idle[using.pin]
        if seat is None:
            if self._most is not None and self.processes >= self._most and self.idle:
                others = next(iter(self.idle.values()))
                evicted = others[0]
                self.retired(evicted)
                acts.append(Retire(evicted))
            self.processes += 1
        acts.append(Run(job, seat))
        return acts

    def _pop(self, line: Line) -> Task | None:
        while line.tasks:
            task = line.tasks.popleft()
            if task.future.begin():
                return task
            self._forget(task)
        return None

    @staticmethod
    def _forget(task: Task) -> None:
        if task.within is not None:
            task.within.inner.discard(task)

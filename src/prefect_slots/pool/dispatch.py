"""Who does what next: tasks in queues, grants and processes, decided under one lock, with no I/O and no clock.

Tasks of one shape stand in one queue, and at most one ticket waits in the ledger for a queue: its grant goes to the
first task, and the next is asked for at once. So a thousand tasks of one kind do not stand before another pool's one.
What is then to be done, by the caller and outside the lock, is had by `take`.

A task that was submitted by a running task may start although all processes are taken, as long as no other of that
task's runs: so whoever waits for what it has submitted waits for something that goes on, however deep.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefect_slots.pool.grants import PoolGrant
from prefect_slots.pool.pinning import Pin
from prefect_slots.pool.task import Task
from prefect_slots.pool.worker import Worker

if TYPE_CHECKING:
    from prefect_slots.model.request import Parent
    from prefect_slots.model.requirement import Requirement


@dataclass(frozen=True)
class Shape:
    """What makes tasks interchangeable to the ledger; `within` is the task that submitted them, if one did."""

    requirement: Requirement | None
    priority: int
    expected: float | None
    parent: Parent | None
    within: Task | None


def _shape(task: Task) -> Shape:
    request = task.request
    return Shape(request.requirement, request.priority, request.expected_seconds, request.parent, task.within)


@dataclass(eq=False)
class Queue:
    """The waiting tasks of one shape, oldest first.

    Attributes:
        ticket: By which the queue waits in the ledger, if it does.
        running: How many of its tasks run.
    """

    shape: Shape
    tasks: deque[Task] = field(default_factory=deque[Task])
    ticket: str | None = None
    running: int = 0


@dataclass(eq=False)
class Job:
    """A task that runs, under the grant that it uses.

    Attributes:
        extra: It runs although all processes are taken.
        since: When its process began to serve its queue without a break.
    """

    task: Task
    queue: Queue
    grant: PoolGrant
    extra: bool
    since: float = 0.0


@dataclass(frozen=True)
class Ask:
    """Ask for a grant for the first task of a queue."""

    queue: Queue
    ticket: str


@dataclass(frozen=True)
class Withdraw:
    """End a request or grant, whatever state it is in."""

    ticket: str


@dataclass(frozen=True)
class Start:
    """Have a job done by a worker that is idle or new."""

    job: Job
    worker: Worker


@dataclass(frozen=True)
class Retire:
    """End an idle process: its place is needed."""

    worker: Worker


@dataclass(frozen=True)
class Fail:
    """End a task that waited: the ledger refused it, or it waited too long."""

    task: Task
    error: BaseException


Act = Ask | Withdraw | Start | Retire | Fail


class Dispatcher:
    """The pool's state; every method is called with the pool's lock held.

    Args:
        most: How many tasks may run at once, or `None` for as many as the ledger grants.
        most_free: How many of those that ask for nothing.
        new_worker: Returns a worker of that pin.

    Attributes:
        queues: The queues in which tasks wait or of which tasks run; the next turn is the first one's.
        jobs: What runs.
        workers: All that have not been told to end.
    """

    def __init__(self, most: int | None, most_free: int, new_worker: Callable[[Pin], Worker]) -> None:
        self.queues: dict[Shape, Queue] = {}
        self.jobs: dict[Task, Job] = {}
        self.workers: set[Worker] = set()
        self._idle: dict[Pin, list[Worker]] = {}
        self._acts: list[Act] = []
        self._new_worker = new_worker
        self._most = most
        self._most_free = most_free
        self._running = 0
        self._running_free = 0

    @property
    def is_empty(self) -> bool:
        """Whether no task waits or runs."""
        return not self.jobs and not any(queue.tasks for queue in self.queues.values())

    def take(self) -> list[Act]:
        """Return what is to be done since the last call."""
        acts, self._acts = self._acts, []
        return acts

    def add(self, task: Task) -> None:
        """A task was submitted."""
        shape = _shape(task)
        queue = self.queues.get(shape)
        if queue is None:
            queue = self.queues[shape] = Queue(shape)
        queue.tasks.append(task)
        if task.within is not None:
            task.within.inner.add(task)
        self._look(queue)

    def queue_of(self, task: Task) -> Queue | None:
        """Return the queue in which a task waits."""
        queue = self.queues.get(_shape(task))
        return queue if queue is not None and task in queue.tasks else None

    def drop(self, task: Task, error: BaseException | None = None) -> None:
        """A waiting task was cancelled, or fails with `error` because it has waited too long."""
        queue = self.queue_of(task)
        if queue is None:
            return
        queue.tasks.remove(task)
        self._forget(task)
        if error is not None:
            self._acts.append(Fail(task, error))
        self._look(queue)

    def granted(self, queue: Queue, ticket: str, grant: PoolGrant) -> None:
        """The ledger granted what a queue asked for."""
        if queue.ticket != ticket:
            return  # withdrawn meanwhile, and so is the grant
        queue.ticket = None
        # All processes may have been taken since it asked. To hold on to the grant while waiting for one would be to
        # hold while waiting, which can deadlock.
        if not self._has_room(queue) or not self._start(queue, grant):
            self._acts.append(Withdraw(ticket))
        self._look(queue)

    def refused(self, queue: Queue, ticket: str, error: BaseException) -> None:
        """The ledger refused what a queue asked for: its first task fails."""
        if queue.ticket != ticket:
            return
        queue.ticket = None
        if queue.tasks:
            self.drop(queue.tasks[0], error)
        else:
            self._look(queue)

    def next_of(self, job: Job) -> Job | None:
        """Return the queue's next task for the process and the grant that `job` has had, if there is one."""
        task = self._pop(job.queue)
        if task is None:
            return None
        self._forget(job.task)
        del self.jobs[job.task]
        following = self.jobs[task] = Job(task, job.queue, job.grant, job.extra, job.since)
        return following

    def ended(self, job: Job, worker: Worker, *, is_fit: bool) -> None:
        """A job is done, its grant is given back, and its worker is idle, or gone if it is not fit for more."""
        queue = job.queue
        del self.jobs[job.task]
        self._forget(job.task)
        queue.running -= 1
        if job.task.within is not None:
            job.task.within.lent -= 1
        if not job.extra:
            self._running -= 1
            self._running_free -= queue.shape.requirement is None
        if is_fit:
            self._idle.setdefault(worker.pin, []).append(worker)
        else:
            self.workers.discard(worker)
        # Other queues first: this one has had its turn.
        self.queues[queue.shape] = self.queues.pop(queue.shape)
        for each in list(self.queues.values()):
            self._look(each)

    def retired(self, worker: Worker) -> bool:
        """An idle process wants to end; return whether it may: it may have been given a job just now."""
        idle = self._idle.get(worker.pin, [])
        if worker not in idle:
            return False
        self._take_idle(worker.pin, idle.index(worker))
        self.workers.discard(worker)
        return True

    def retire_all(self) -> None:
        """End every idle process."""
        while self._idle:
            self._evict()

    def waiting(self) -> list[Task]:
        """Return the tasks that wait."""
        return [task for queue in self.queues.values() for task in queue.tasks]

    def _look(self, queue: Queue) -> None:
        """Start what may start, ask for what is to be asked for, and withdraw what nobody wants any more."""
        if queue.shape.requirement is None:
            while queue.tasks and self._has_room(queue):
                self._start(queue, queue.tasks[0].under)
        elif queue.tasks and queue.ticket is None and self._has_room(queue):
            queue.ticket = uuid.uuid4().hex
            self._acts.append(Ask(queue, queue.ticket))
        elif not queue.tasks and queue.ticket is not None:
            self._acts.append(Withdraw(queue.ticket))
            queue.ticket = None
        if not queue.tasks and queue.ticket is None and not queue.running:
            self.queues.pop(queue.shape, None)

    def _has_room(self, queue: Queue) -> bool:
        return self._is_first_inner(queue) or (
            (self._most is None or self._running < self._most)
            and (queue.shape.requirement is not None or self._running_free < self._most_free)
        )

    @staticmethod
    def _is_first_inner(queue: Queue) -> bool:
        return queue.shape.within is not None and queue.shape.within.lent == 0

    def _start(self, queue: Queue, grant: PoolGrant) -> bool:
        """Start the first task of a queue under a grant; return whether there was one."""
        task = self._pop(queue)
        if task is None:
            return False
        extra = self._is_first_inner(queue)
        queue.running += 1
        if task.within is not None:
            task.within.lent += 1
        if not extra:
            self._running += 1
            self._running_free += queue.shape.requirement is None
        job = self.jobs[task] = Job(task, queue, grant, extra)
        self._acts.append(Start(job, self._worker(grant.pin)))
        return True

    def _worker(self, pin: Pin) -> Worker:
        """Return an idle worker of that pin, else a new one, for which one of another pin may have to end."""
        if pin in self._idle:
            return self._take_idle(pin, -1)
        if self._most is not None and len(self.workers) >= self._most and self._idle:
            self._evict()
        worker = self._new_worker(pin)
        self.workers.add(worker)
        return worker

    def _evict(self) -> None:
        worker = self._take_idle(next(iter(self._idle)), 0)
        self.workers.discard(worker)
        self._acts.append(Retire(worker))

    def _take_idle(self, pin: Pin, index: int) -> Worker:
        idle = self._idle[pin]
        worker = idle.pop(index)
        if not idle:
            del self._idle[pin]
        return worker

    def _pop(self, queue: Queue) -> Task | None:
        while queue.tasks:
            task = queue.tasks.popleft()
            if task.future.begin():
                return task
            self._forget(task)
        return None

    @staticmethod
    def _forget(task: Task) -> None:
        if task.within is not None:
            task.within.inner.discard(task)

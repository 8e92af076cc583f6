"""Dispatch: the next step for queued tasks, grants and processes, decided under one lock, with no I/O and no clock.

Tasks of one shape stand in one queue, and at most one ticket waits in the ledger for a queue: its grant goes to the
first task, and the next is asked for at once. So a thousand tasks of one kind do not stand before another pool's one.
The caller takes the decisions by `take`, and carries them out outside the lock.

A task that was submitted by a running task may start although all processes are taken, as long as no other of that
task's runs: a task that waits for its own submissions waits for something that goes on, however deep.
"""

import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from prefect_slots.model import Parent, Requirement
from prefect_slots.pool import grants, process
from prefect_slots.pool.task import Task
from prefect_slots.pool.worker import Worker


class Shape(NamedTuple):
    """All that the ledger looks at: tasks of one shape are interchangeable. `within` is the submitting task, if any."""

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
        ticket: The queue's request in the ledger, if any.
        running: Number of its tasks that run.
    """

    shape: Shape
    tasks: deque[Task] = field(default_factory=deque[Task])
    ticket: str | None = None
    running: int = 0


@dataclass(eq=False)
class Job:
    """A running task and the grant that it uses.

    Attributes:
        extra: It runs although all processes are taken.
        since: Start of the turn, in seconds of the monotonic clock: its process serves its queue since then.
    """

    task: Task
    queue: Queue
    grant: grants.PoolGrant
    extra: bool
    since: float = 0.0


class Ask(NamedTuple):
    """Request a grant for the first task of a queue."""

    queue: Queue
    ticket: str


class Withdraw(NamedTuple):
    """End a request or grant in any state."""

    ticket: str


class Start(NamedTuple):
    """Have a job done by a worker that is idle or new."""

    job: Job
    worker: Worker


class Retire(NamedTuple):
    """End an idle worker: another needs its place."""

    worker: Worker


class Fail(NamedTuple):
    """Fail a task that waited: the ledger refused it, or it waited too long."""

    task: Task
    error: BaseException


Act = Ask | Withdraw | Start | Retire | Fail


class Dispatcher:
    """The pool's state; every method is called with the pool's lock held.

    Args:
        most: Number of tasks that may run at once, or `None` for as many as the ledger grants.
        most_free: Number of tasks that ask for nothing that may run at once.
        new_worker: Returns a new worker of a pin.

    Attributes:
        queues: All queues with waiting or running tasks; the next turn is the first queue's.
        jobs: All running tasks.
        workers: All workers that have not been told to end.
    """

    def __init__(self, most: int | None, most_free: int, new_worker: Callable[[process.Pin], Worker]) -> None:
        self.queues: dict[Shape, Queue] = {}
        self.jobs: dict[Task, Job] = {}
        self.workers: set[Worker] = set()
        self._idle: dict[process.Pin, list[Worker]] = {}
        self._acts: list[Act] = []
        self._new_worker = new_worker
        self._most = most
        self._most_free = most_free
        self._running = 0
        self._running_free = 0

    @property
    def is_empty(self) -> bool:
        """True if no task waits or runs."""
        return not self.jobs and not any(queue.tasks for queue in self.queues.values())

    def take(self) -> list[Act]:
        """Return the decisions since the last call."""
        acts, self._acts = self._acts, []
        return acts

    def add(self, task: Task) -> None:
        """Queue a submitted task."""
        shape = _shape(task)
        queue = self.queues[shape] = self.queues.get(shape) or Queue(shape)
        queue.tasks.append(task)
        if task.within is not None:
            task.within.inner.add(task)
        self._look(queue)

    def queue_of(self, task: Task) -> Queue | None:
        """Return the queue in which a task waits."""
        queue = self.queues.get(_shape(task))
        return queue if queue is not None and task in queue.tasks else None

    def drop(self, task: Task, error: BaseException | None = None) -> None:
        """Take a task that waits out of its queue: it was cancelled, or it fails with `error`."""
        queue = self.queue_of(task)
        if queue is None:
            return
        queue.tasks.remove(task)
        self._forget(task)
        if error is not None:
            self._acts.append(Fail(task, error))
        self._look(queue)

    def granted(self, queue: Queue, ticket: str, grant: grants.PoolGrant) -> None:
        """Use a grant that the ledger gave to a queue."""
        if queue.ticket != ticket:
            return  # the request was withdrawn meanwhile, and so is the grant
        queue.ticket = None
        # All processes may have been taken since it asked. A pool that kept the grant until one is free would hold
        # while waiting, which can deadlock.
        if not self._has_room(queue) or not self._start(queue, grant):
            self._acts.append(Withdraw(ticket))
        self._look(queue)

    def refused(self, queue: Queue, ticket: str, error: BaseException) -> None:
        """Fail the first task of a queue that the ledger refused."""
        if queue.ticket != ticket:
            return
        queue.ticket = None
        if queue.tasks:
            self.drop(queue.tasks[0], error)
        else:
            self._look(queue)

    def next_of(self, job: Job) -> Job | None:
        """Return the queue's next task as a job for the process and the grant of `job`, if a task waits."""
        task = self._pop(job.queue)
        if task is None:
            return None
        self._forget(job.task)
        del self.jobs[job.task]
        following = self.jobs[task] = Job(task, job.queue, job.grant, job.extra, job.since)
        return following

    def ended(self, job: Job, worker: Worker, *, is_fit: bool) -> None:
        """Note that a job is done and its grant given back; its worker is idle, or gone if it is not fit for more."""
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
        # To the end: this queue has had its turn.
        self.queues[queue.shape] = self.queues.pop(queue.shape)
        for each in list(self.queues.values()):
            self._look(each)

    def retired(self, worker: Worker) -> bool:
        """Take an idle worker out, and return `True`; `False` if it has just been given a job."""
        idle = self._idle.get(worker.pin, [])
        if worker not in idle:
            return False
        self._take_idle(worker.pin, idle.index(worker))
        self.workers.discard(worker)
        return True

    def retire_all(self) -> None:
        """End every idle worker."""
        while self._idle:
            self._evict()

    def waiting(self) -> list[Task]:
        """Return all waiting tasks."""
        return [task for queue in self.queues.values() for task in queue.tasks]

    def _look(self, queue: Queue) -> None:
        """Start tasks of a queue, request a grant for it, or withdraw its request if no task is left."""
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
        # One more process than the limit for each running task that submits: else nested waiting could deadlock.
        return queue.shape.within is not None and queue.shape.within.lent == 0

    def _start(self, queue: Queue, grant: grants.PoolGrant) -> bool:
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

    def _worker(self, pin: process.Pin) -> Worker:
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

    def _take_idle(self, pin: process.Pin, index: int) -> Worker:
        idle = self._idle[pin]
        worker = idle.pop(index)
        if not idle:
            del self._idle[pin]
        return worker

    def _pop(self, queue: Queue) -> Task | None:
        while queue.tasks:
            task = queue.tasks.popleft()
            # A cancelled task may still stand here: its canceller has the future, and waits for the pool's lock.
            if task.future.begin():
                return task
            self._forget(task)
        return None

    @staticmethod
    def _forget(task: Task) -> None:
        if task.within is not None:
            task.within.inner.discard(task)

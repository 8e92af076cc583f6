"""The supervision of a pool: a thread for each task process, requests to the ledger, the ends of tasks.

Each event (a call is submitted, the ledger grants, a task ends) goes to the dispatcher under one lock. Its decisions
are carried out outside the lock, because they start processes and speak to the ledger.
"""

import atexit
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from prefect_slots.acquire.engine import engine
from prefect_slots.errors import LeaseLost, WaitTimeout
from prefect_slots.model import Request
from prefect_slots.pool import dispatch, grants, nested, process, wire
from prefect_slots.pool.task import Task, TaskFuture
from prefect_slots.pool.worker import Outcome, Setup, Worker
from prefect_slots.requiring.target import current_target

# A start costs 50 ms to seconds of imports; an idle process costs its memory. A minute keeps it between two maps.
IDLE_SECONDS = 60.0
# A grant costs the ledger about a millisecond: over a turn that is 1 %, and other requests wait unnoticeably longer.
TURN_SECONDS = 0.1


class Supervisor:
    """A pool's tasks and processes: the seam for code that packs its calls itself, as the task runner does.

    The arguments are those of `SlotPool`.

    Attributes:
        name: The pool's name for task processes.
        handle: The public executor, kept alive while tasks run: a task may return it.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        idle_seconds: float = IDLE_SECONDS,
        turn_seconds: float = TURN_SECONDS,
    ) -> None:
        if max_workers is not None and max_workers < 1:
            raise ValueError(f"max_workers must be at least 1, or None: {max_workers}")
        for name, seconds in (("idle_seconds", idle_seconds), ("turn_seconds", turn_seconds)):
            if not seconds >= 0:
                raise ValueError(f"{name} must be at least 0: {seconds}")
        self.name = uuid.uuid4().hex
        self.handle: object = None
        self._idle_seconds = min(idle_seconds, threading.TIMEOUT_MAX)
        self._turn_seconds = turn_seconds
        preparation = wire.pack((initializer, tuple(initargs), {})) if initializer is not None else None
        self._grants = grants.GrantClient(current_target())
        setup = Setup(self.name, self._grants, preparation, partial(nested.hear, self.enqueue))
        workers = max_workers or process.core_count()
        self._dispatcher = dispatch.Dispatcher(max_workers, workers, lambda pin: Worker(pin, setup))
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._jobs: dict[Worker, SimpleQueue[dispatch.Job | None]] = {}
        self._closed = False
        self._unclaimed = grants.PoolGrant()
        # Exit handlers run in reverse order: the engine must end after this pool.
        engine()
        # Weak, or a pool that is never shut down would live until the exit.
        self._at_exit = partial(_shut_down, weakref.ref(self))
        atexit.register(self._at_exit)

    def __str__(self) -> str:
        with self._lock:
            running, waiting = len(self._dispatcher.jobs), len(self._dispatcher.waiting())
            return f"{running} running, {waiting} waiting, {len(self._dispatcher.workers)} processes"

    def enqueue(
        self,
        request: Request,
        call: wire.Packed,
        read: Callable[[wire.Packed], Any] = wire.unpack,
        within: Task | None = None,
    ) -> TaskFuture:
        """Put a packed call into its queue.

        Args:
            request: The request of the call.
            call: A function, its arguments and keyword arguments, packed.
            read: Converts the task process's reply to the future's result.
            within: The task that submits it, if any.

        Raises:
            RuntimeError: if the pool is shut down.
        """
        if self._grants.folder is None and request.requirement is not None:
            request = Request(limit=request.limit, label=request.label)
        task = Task(request=request, call=call, read=read, under=self._under(request, within), within=within)
        task.future = TaskFuture(partial(self._cancelled, task))
        if request.timeout is not None and request.requirement is not None:
            task.alarm = engine().later(request.timeout, partial(self._expired, task))

        def add() -> None:
            # Tasks within tasks still run: the outer ones are waited for.
            if self._closed and within is None:
                raise RuntimeError("cannot submit to a pool that is shut down")
            self._dispatcher.add(task)

        self._act(add)
        return task.future

    def _under(self, request: Request, within: Task | None) -> grants.PoolGrant:
        """Return the enclosing grant, for a task that asks for nothing."""
        if request.parent is None or self._grants.folder is None:
            return self._unclaimed
        with self._lock:
            outer = self._dispatcher.jobs.get(within) if within is not None else None
        token = request.parent.token
        # With the pin of the outer task, so that its processes and their libraries serve the inner one too.
        if outer is not None and outer.grant.token == token:
            return outer.grant.lent()
        return grants.PoolGrant(token=token, folder=str(self._grants.folder))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, kill: bool = False) -> None:
        """Refuse new tasks, and end the processes once all tasks have ended; see `SlotPool.shutdown`."""
        with self._lock:
            self._closed = True
            waiting, running = self._dispatcher.waiting(), list(self._dispatcher.jobs)
        for task in [*(waiting if cancel_futures or kill else ()), *(running if kill else ())]:
            task.future.cancel()
        self._act()
        if wait:
            with self._changed:
                self._changed.wait_for(lambda: not self._jobs and self._dispatcher.is_empty)
            atexit.unregister(self._at_exit)

    def reasons(self) -> list[str]:
        """Return the reasons for which tasks wait now, one for each queue."""
        with self._lock:
            queues = [queue for queue in self._dispatcher.queues.values() if queue.tasks]
        return [self._why(queue) for queue in queues]

    def reason(self, future: TaskFuture) -> str:
        """Return the reason for which one task waits now; empty if it does not wait."""
        with self._lock:
            queues = self._dispatcher.queues.values()
            queue = next((queue for queue in queues for task in queue.tasks if task.future is future), None)
        return self._why(queue) if queue is not None else ""

    def _why(self, queue: dispatch.Queue) -> str:
        if queue.ticket is None or queue.shape.requirement is None:
            return "waits for a free process"
        return self._grants.reason(queue.ticket) or f"waits its turn for {queue.shape.requirement.describe()}"

    # Decisions of the dispatcher

    def _act(self, note: Callable[[], None] | None = None) -> None:
        """Pass an event to the dispatcher, and carry out its decisions."""
        with self._changed:
            if note is not None:
                note()
            if self._closed and self._dispatcher.is_empty:
                self._dispatcher.retire_all()
            # Tasks before requests: a task that may start must not wait for the ledger.
            acts = sorted(self._dispatcher.take(), key=lambda act: not isinstance(act, dispatch.Start))
            new = {act.worker for act in acts if isinstance(act, dispatch.Start)} - self._jobs.keys()
            self._jobs.update((worker, SimpleQueue()) for worker in new)
            self._changed.notify_all()
        for act in acts:
            match act:
                case dispatch.Start(job=job, worker=worker):
                    job.task.silence()
                    self._jobs[worker].put(job)
                    if worker in new:
                        name = f"prefect-slots-pool-{worker.pin}"
                        threading.Thread(target=self._run, args=(worker,), name=name, daemon=True).start()
                case dispatch.Ask(queue=queue, ticket=ticket):
                    self._ask(queue, ticket)
                case dispatch.Withdraw(ticket=ticket):
                    self._grants.withdraw(ticket)
                case dispatch.Retire(worker=idle):
                    self._jobs[idle].put(None)
                case dispatch.Fail(task=task, error=error):
                    task.fail_elsewhere(error)

    def _ask(self, queue: dispatch.Queue, ticket: str) -> None:
        with self._lock:
            head = queue.tasks[0] if queue.tasks and queue.ticket == ticket else None
        if head is None or queue.shape.requirement is None:
            return

        def answer(told: grants.PoolGrant | BaseException) -> None:
            settled = self._dispatcher.granted if isinstance(told, grants.PoolGrant) else self._dispatcher.refused
            self._act(partial(settled, queue, ticket, told))

        # The label and the amounts are those of the first task, for people; the shape is that of all.
        self._grants.ask(ticket, head.request, answer)

    def _cancelled(self, task: Task) -> None:
        task.silence()
        self._act(partial(self._dispatcher.drop, task))
        # It may be running, on any of them.
        with self._lock:
            workers = list(self._jobs)
        for worker in workers:
            worker.kill(task)

    def _expired(self, task: Task) -> None:
        with self._lock:
            queue = self._dispatcher.queue_of(task)
        if queue is None:
            return
        wanted, seconds = task.request.wanted.describe(), task.request.timeout or 0.0
        error = WaitTimeout(wanted=wanted, seconds=seconds, reason=self._why(queue))
        self._act(partial(self._dispatcher.drop, task, error))

    # The thread of one worker

    def _run(self, worker: Worker) -> None:
        """Do jobs until there are none for a while, or the process has ended."""
        try:
            while (job := self._next(worker)) is not None and self._serve(worker, job):
                pass
        finally:
            worker.retire()
            with self._changed:
                del self._jobs[worker]
                self._changed.notify_all()

    def _next(self, worker: Worker) -> dispatch.Job | None:
        jobs = self._jobs[worker]
        while True:
            try:
                return jobs.get(timeout=self._idle_seconds)
            except Empty:
                # A job may have come between the timeout and the lock.
                with self._lock:
                    if self._dispatcher.retired(worker):
                        return None

    def _serve(self, worker: Worker, first: dispatch.Job) -> bool:
        """Do a job and those that follow it under the same grant; return whether the process is fit for more."""
        job, outcome = first, self._begin(worker, first)
        while True:
            outcome = outcome or worker.answer(job.task)
            self._end_inner(job.task)
            following: dispatch.Job | None = None
            if self._grants.is_strict and job.grant.id:
                outcome = self._insist(job, outcome)
            elif worker.is_alive:
                following = self._following(job)
            # The next task begins before this one's future ends: callbacks of users may take long.
            ahead = self._begin(worker, following) if following is not None else None
            job.task.future.settle(job.task.read, *outcome)
            if following is None:
                break
            job, outcome = following, ahead
        worker.retire_if_soiled(job.grant)
        if job.grant.id:
            self._grants.withdraw(job.grant.id)
        is_fit = worker.is_alive
        self._act(partial(self._dispatcher.ended, job, worker, is_fit=is_fit))
        return is_fit

    def _begin(self, worker: Worker, job: dispatch.Job) -> Outcome | None:
        job.since = job.since or time.monotonic()
        return worker.begin(job.task, job.grant)

    def _following(self, job: dispatch.Job) -> dispatch.Job | None:
        """Return the next job for the process and the grant of a job that has ended, if they may serve it."""
        turn_is_over = time.monotonic() - job.since > self._turn_seconds
        if turn_is_over and not (
            job.queue.tasks and job.grant.id and self._grants.may_go_on(job.grant, job.queue.ticket)
        ):
            return None
        with self._lock:
            following = self._dispatcher.next_of(job)
        if following is not None:
            # A turn that was prolonged begins anew: else each further task would ask the ledger.
            if turn_is_over:
                following.since = 0.0
            following.task.silence()
        return following

    def _insist(self, job: dispatch.Job, outcome: Outcome) -> Outcome:
        lost = self._grants.give_back(job.grant)
        if lost is not None and outcome.error is None:
            return Outcome(None, LeaseLost(limit=lost, grant=job.grant.id))
        return outcome

    def _end_inner(self, task: Task) -> None:
        """Cancel tasks that a task has submitted and not waited for: their results are lost with its process."""
        if not task.inner:
            return
        with self._lock:
            unfinished = list(task.inner)
        for each in unfinished:
            each.future.cancel()


def _shut_down(reference: weakref.ref[Supervisor]) -> None:
    if (supervisor := reference()) is not None:
        supervisor.shutdown()

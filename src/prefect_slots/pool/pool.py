"""The executor that people use: `SlotPool`.

Whatever happens (a call is submitted, the ledger grants, a task ends) is noted on the board under one lock; what then
is to be done is done outside it.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, cast

from prefect_slots.acquire.engine import engine
from prefect_slots.errors import WaitTimeout
from prefect_slots.pool import nested
from prefect_slots.pool.dispatch import Act, Ask, Dispatcher, Job, Queue, Retire, Start, Withdraw
from prefect_slots.pool.grants import GrantClient, PoolGrant
from prefect_slots.pool.pinning import Pin, core_count
from prefect_slots.pool.process import Process
from prefect_slots.pool.submission import Order, Submission
from prefect_slots.pool.supervisor import Supervisor
from prefect_slots.pool.task import Task, TaskFuture, deadline, fail_elsewhere, is_urgent, results_of, silence
from prefect_slots.pool.wire import Packed, Wire, pack, unpack
from prefect_slots.requiring.target import current_target

if TYPE_CHECKING:
    from prefect_slots.requiring.alternatives import any_of
    from prefect_slots.requiring.decorator import requires

IDLE_SECONDS: Final = 60.0
TURN_SECONDS: Final = 0.1


class SlotPool(concurrent.futures.Executor):
    """A process pool whose tasks run when this machine can give them what they need.

    It shares the machine's ledger with every other pool, worker, `requires(...)` and `prefect-slots run`. A task's
    process is pinned to its cards and cores before anything of it is imported. A task that asks for nothing runs when
    a process is free.

    Args:
        max_workers: How many tasks run at once. By default as many as the ledger grants, and of those that ask for
            nothing as many as there are cores.
        initializer: Called in each process before its first task; the task fails if it raises.
        initargs: Its arguments.
        idle_seconds: After which an idle process ends.
        turn_seconds: How long a grant serves one task of a shape after another although others wait.

    Settings and the state folder are those of the moment at which the pool is made.

    Examples:
        >>> from prefect_slots import SlotPool
        >>> with SlotPool() as pool:
        ...     future = pool.submit(train, path, requires=dict(gpu_mem=8))
        ...     for result in pool.map(infer, images, requires=dict(gpu_mem=4), progress=True): ...
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
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
        self.idle_seconds = idle_seconds
        self.turn_seconds = turn_seconds
        self.preparation = pack((initializer, tuple(initargs), {})) if initializer is not None else None
        target = current_target()
        self._grants = GrantClient(target) if target is not None else None
        self._folder = target.folder if target is not None else None
        self._dispatcher = Dispatcher(max_workers, max_workers or core_count())
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._supervisors: set[Supervisor] = set()
        self._closed = False
        self._unclaimed = PoolGrant()
        nested.here[self.name] = self
        engine()  # its end at exit must come after this pool's
        self._at_exit = partial(_shut_down, weakref.ref(self))
        atexit.register(self._at_exit)

    def __repr__(self) -> str:
        with self._lock:
            running, waiting = len(self._dispatcher.jobs), len(self._dispatcher.waiting())
        return f"<SlotPool {running} running, {waiting} waiting, {self._dispatcher.processes} processes>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Within a task the pool is spoken to over the task's own process.
        return nested.pool_named, (self.name,)

    # What people call

    def submit(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        requires: requires | any_of | Mapping[str, Any] | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> TaskFuture:
        """Have `fn(*args, **kwargs)` called in a task process once this machine can give it what it needs.

        Args:
            fn: A function or a coroutine function. What it was decorated with by `@requires` is asked for.
            *args: Its arguments.
            requires: What it needs: `dict(gpu_mem=8)`, with `timeout=` for the seconds of waiting and `priority=`, or
                a `requires(...)` object.
            timeout: Seconds that it may run; then it is killed and the future raises `TaskTimeout`.
            **kwargs: Its arguments by name. (For a function with parameters of the two names, use `partial`.)

        Returns:
            A future; its `cancel` takes the task back while it waits and kills it while it runs.

        Raises:
            InvalidRequirement: if `requires` is no requirement.
            RuntimeError: if the pool is shut down.
        """
        return self.enqueue(*Submission(fn, requires, timeout).order(args, kwargs))

    def map(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        requires: requires | any_of | Mapping[str, Any] | None = None,
        task_timeout: float | None = None,
        progress: bool = False,
    ) -> Iterator[Any]:
        """Return the results of `fn` over the iterables, in order, as `Executor.map` does.

        Args:
            fn: As for `submit`.
            *iterables: The arguments.
            timeout: Seconds from now after which `TimeoutError` is raised and what has not ended is cancelled.
            chunksize: Without effect: every call has a grant of its own.
            requires: As for `submit`, for each call.
            task_timeout: Seconds that each call may run.
            progress: Show on the terminal how many are done, run and wait, and what for.
        """
        del chunksize
        until = deadline(timeout)
        futures = Submission(fn, requires, task_timeout).submit_all(self.enqueue, iterables)
        results = results_of(futures, until)
        if not progress:
            return results
        from prefect_slots.pool.progress import shown

        return shown(results, futures, getattr(fn, "__name__", "map"), self.reasons)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, kill: bool = False) -> None:
        """Take no more tasks, and end once those that there are have ended.

        Args:
            wait: Until everything has ended.
            cancel_futures: Cancel the tasks that wait.
            kill: Cancel those that run as well.
        """
        with self._lock:
            self._closed = True
            waiting, running = self._dispatcher.waiting(), list(self._dispatcher.jobs)
        for task in [*(waiting if cancel_futures or kill else ()), *(running if kill else ())]:
            task.future.cancel()
        self._act(self._end_idle)
        if wait:
            with self._left:
                self._left.wait_for(lambda: not self._supervisors and self._dispatcher.is_empty)
            atexit.unregister(self._at_exit)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """End as `shutdown` does; Ctrl-C kills what runs."""
        self.shutdown(kill=is_urgent(kind))
        return None

    async def __aenter__(self) -> SlotPool:
        """Return the pool."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End as `shutdown` does, without blocking the event loop; a cancelled block kills what runs."""
        await asyncio.shield(asyncio.to_thread(self.shutdown, kill=is_urgent(kind)))

    def reasons(self) -> list[str]:
        """Say what the tasks that wait wait for, as the ledger sees it now."""
        with self._lock:
            queues = [queue for queue in self._dispatcher.queues.values() if queue.tasks]
        return [self._why(queue) for queue in queues]

    def reason(self, future: TaskFuture) -> str:
        """Say what one task waits for; empty if it does not wait."""
        with self._lock:
            queue = next((task.queue for task in self._dispatcher.waiting() if task.future is future), None)
        return self._why(queue) if queue is not None else ""

    def _why(self, queue: Queue) -> str:
        if self._grants is None or queue.ticket is None or queue.shape.requirement is None:
            return "waits for a free process"
        return self._grants.reason(queue.ticket) or f"waits its turn for {queue.shape.requirement.describe()}"

    # What supervisors and inner pools call

    def enqueue(
        self, order: Order, call: Packed, read: Callable[[Packed], Any] = unpack, within: Task | None = None
    ) -> TaskFuture:
        """Put a task into its queue."""
        if self._grants is None and order.requirement is not None:
            order = Order(limit=order.limit, label=order.label)
        task = Task(order=order, call=call, read=read, under=self._under(order, within), within=within)
        task.future = TaskFuture(partial(self._cancelled, task))
        if order.patience is not None and order.requirement is not None:
            task.alarm = engine().later(order.patience, partial(self._expired, task))

        def add() -> list[Act]:
            if self._closed and within is None:
                raise RuntimeError("cannot submit to a pool that is shut down")
            return self._dispatcher.add(task)

        self._act(add)
        return task.future

    def _under(self, order: Order, within: Task | None) -> PoolGrant:
        """Return what encloses a task that asks for nothing."""
        with self._lock:
            outer = self._dispatcher.jobs.get(within) if within is not None else None
        if order.parent is None or self._folder is None:
            return self._unclaimed
        token = f"{order.parent.ledger}:{order.parent.grant}"
        if outer is not None and outer.grant.token == token:
            return outer.grant.lent()
        return PoolGrant(token=token, folder=str(self._folder))

    def following(self, job: Job, *, turn_is_over: bool) -> Job | None:
        """Return the next task for the process and the grant of a job that has ended, if they may serve it."""
        if turn_is_over:
            if not (job.queue.tasks and self._grants is not None and job.grant.id):
                return None
            if not self._grants.may_go_on(job.grant, job.queue.ticket):
                return None
        with self._lock:
            following = self._dispatcher.next_of(job)
        if following is not None:
            if turn_is_over:
                following.since = 0.0
            silence(following.task)
        return following

    def finished(self, job: Job, supervisor: Supervisor | None) -> None:
        """Note that a job has ended and that its supervisor, if it still has a process, is idle."""
        if self._grants is not None and job.grant.id:
            self._grants.withdraw(job.grant.id)

        def end() -> list[Act]:
            acts = self._dispatcher.ended(job, supervisor)
            return [*acts, *self._end_idle()]

        self._act(end)

    @property
    def is_strict(self) -> bool:
        """Whether each task has a grant of its own, and fails if others could take what it held."""
        return self._grants is not None and self._grants.is_strict

    def may_leave(self, supervisor: Supervisor) -> bool:
        """Tell whether an idle supervisor may end."""
        with self._lock:
            return self._dispatcher.retired(supervisor)

    def left(self, supervisor: Supervisor) -> None:
        """Note that a supervisor and its process have ended."""
        with self._left:
            self._supervisors.discard(supervisor)
            self._left.notify_all()

    def new_process(self, pin: Pin) -> Process:
        """Start a process; it dies with the calling thread."""
        lock = self._grants.lock() if self._grants is not None else None
        return Process(self.name, pin, self._folder, lock)

    def hear(self, side: Wire, task: Task) -> None:
        """Take what a running task says to the pool."""
        nested.hear(self, side, task)

    def end_inner(self, task: Task) -> None:
        """End what a task has submitted and not waited for: nobody can have its results any more."""
        if not task.inner:
            return
        with self._lock:
            unfinished = list(task.inner)
        for each in unfinished:
            each.future.cancel()

    # Noting what happened, doing what follows

    def _act(self, note: Callable[[], list[Act]]) -> None:
        with self._left:
            acts = note()
            starts = [(act.job, act.worker) for act in acts if isinstance(act, Start)]
            supervisors = [
                (job, self._supervisor(job) if worker is None else cast("Supervisor", worker)) for job, worker in starts
            ]
            self._left.notify_all()
        for job, supervisor in supervisors:
            silence(job.task)
            if supervisor.ident is None:
                supervisor.start()
            else:
                supervisor.give(job)
        for act in acts:
            match act:
                case Ask(queue=queue, ticket=ticket):
                    self._ask(queue, ticket)
                case Withdraw(ticket=ticket) if self._grants is not None:
                    self._grants.withdraw(ticket)
                case Retire(worker=Supervisor() as idle):
                    idle.give(None)
                case _:
                    pass

    def _supervisor(self, job: Job) -> Supervisor:
        supervisor = Supervisor(self, job, self._grants)
        self._supervisors.add(supervisor)
        return supervisor

    def _end_idle(self) -> list[Act]:
        if self._closed and self._dispatcher.is_empty:
            return self._dispatcher.retire_all()
        return []

    def _ask(self, queue: Any, ticket: str) -> None:
        with self._lock:
            head = queue.tasks[0] if queue.tasks and queue.ticket == ticket else None
        if head is None or self._grants is None:
            return

        def answer(told: PoolGrant | BaseException) -> None:
            if isinstance(told, PoolGrant):
                self._act(partial(self._dispatcher.granted, queue, ticket, told))
            else:
                self._refused(queue, ticket, told)

        self._grants.ask(ticket, head.order, queue.shape.requirement, partial(setattr, queue, "reason"), answer)

    def _refused(self, queue: Any, ticket: str, error: BaseException) -> None:
        refused: list[Task] = []

        def note() -> list[Act]:
            task, acts = self._dispatcher.refused(queue, ticket)
            refused.extend([task] if task is not None else [])
            return [*acts, *self._end_idle()]

        self._act(note)
        for task in refused:
            silence(task)
            fail_elsewhere(task.future, error)

    def _cancelled(self, task: Task) -> None:
        silence(task)
        self._act(lambda: [*self._dispatcher.drop(task), *self._end_idle()])
        with self._lock:
            supervisors = list(self._supervisors)
        for supervisor in supervisors:
            supervisor.kill(task)

    def _expired(self, task: Task) -> None:
        requirement, queue = task.order.requirement, task.queue
        if requirement is None or queue is None or task not in queue.tasks:
            return
        wanted, seconds = requirement.describe(), task.order.patience or 0.0
        error = WaitTimeout(wanted=wanted, seconds=seconds, reason=self._why(queue))
        self._act(lambda: [*self._dispatcher.drop(task), *self._end_idle()])
        fail_elsewhere(task.future, error)


def _shut_down(reference: weakref.ref[SlotPool]) -> None:
    pool = reference()
    if pool is not None:
        pool.shutdown()

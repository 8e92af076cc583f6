"""`SlotTaskRunner`: the task runner for flows."""

import concurrent.futures
import threading
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import Any, Self

from prefect import Task
from prefect.client.schemas.objects import RunInput, State
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner

from prefect_slots.acquire.engine import engine
from prefect_slots.limits.prefect_private import emit_task_run_state
from prefect_slots.model import Request
from prefect_slots.pool import by_value, nested, supervisor, wire
from prefect_slots.pool.task import is_urgent
from prefect_slots.requiring import context
from prefect_slots.task_runner import child, forwarding, needs, prefect_private, upstream
from prefect_slots.task_runner.run import Run, SlotFuture, created

# A shorter wait is not shown: the state would have changed again before a person saw it.
_SHOWN_AFTER_SECONDS = 0.2
# For calls that block: results of upstream tasks, states for the server. Waiting tasks need no thread.
_THREADS = 4


class SlotTaskRunner(TaskRunner[PrefectFuture[Any]]):
    """Runs each task in a process of its own once this machine can grant its needs.

    The needs of a task are those of its function's decoration by `@requires`, or those of `SlotTaskRunner.options`
    around the submit. A task waits without a process and without a thread; it is then Pending, `AwaitingResources`.

    Args:
        max_workers: Number of tasks that run at once. By default Prefect's setting for process pools, else as many as
            the machine's ledger grants, and of tasks without needs as many as there are cores.
        initializer: Called in each process before its first task.
        initargs: Its arguments.

    Examples:
        >>> from prefect import flow, task
        >>> from prefect_slots import SlotTaskRunner, requires
        >>> @task
        ... @requires(gpu_mem=8)
        ... def infer(image): ...
        >>> @flow(task_runner=SlotTaskRunner())
        ... def pipeline(images):
        ...     return infer.map(images).result()
    """

    options = staticmethod(needs.options)
    """Around a submit, as prefect-ray's `remote_options`: `with SlotTaskRunner.options(gpu_mem=8): infer.submit(x)`.

    A resource named here replaces the same of the decoration, and of an enclosing block.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        self.max_workers = max_workers or prefect_private.get_current_settings().tasks.runner.process_pool_max_workers
        self.initializer = initializer
        self.initargs = tuple(initargs)
        self._lock = threading.Lock()
        self._open: set[Run] = set()
        self._context = needs.SentContext()
        self._pool: supervisor.Supervisor | nested.InnerPool | None = None
        self._news: forwarding.News | None = None
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None

    def duplicate(self) -> Self:
        """Return a new runner that is configured the same."""
        return type(self)(self.max_workers, initializer=self.initializer, initargs=self.initargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SlotTaskRunner) and self._configuration == other._configuration

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> tuple[Any, ...]:
        # A runner is pickled with its flow; its tasks and its pool stay in its process.
        made = partial(type(self), self.max_workers, initializer=self.initializer, initargs=self.initargs)
        return made, ()

    @property
    def _configuration(self) -> tuple[Any, ...]:
        return type(self), self.max_workers, self.initializer, self.initargs

    # Called by flows

    def submit(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        task: Task[..., Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[RunInput]] | None = None,
    ) -> SlotFuture[Any]:
        """Run a task in another process once its upstream tasks have ended and its resources are granted.

        Returns:
            A future of the task run; its `cancel` takes it back while it waits and kills it while it runs.

        Raises:
            RuntimeError: if the runner is not started.
        """
        if not self._started:
            raise RuntimeError("Task runner is not started")
        awaited = list(wait_for) if wait_for is not None else None
        before = upstream.futures_in(parameters, awaited)
        task_run = created(task, parameters, awaited, dependencies)
        upstream.forget_parents(task_run, before)
        run = Run(
            needs=needs.needs_of(task),
            task_run=task_run,
            parameters=parameters,
            wait_for=awaited,
            context=copy_context(),
            sent=self._context.sent(task, task_run),
        )
        # It may be a while before it has a process: until then it is Pending.
        assert task_run.state is not None
        emit_task_run_state(task_run, None, task_run.state)
        with self._lock:
            self._open.add(run)
        run.final.add_done_callback(partial(self._left, run))
        future: SlotFuture[Any] = SlotFuture(run)
        if before:
            # Reading results may block, and the thread that ends the last of them serves others.
            upstream.when_all_have_ended(before, lambda: self._later(run, partial(self._begin, run)))
        else:
            self._begin(run)
        return future

    def cancel_all(self) -> None:
        """Cancel every task that has not ended; the processes of those that run are killed."""
        with self._lock:
            unfinished = list(self._open)
        for run in unfinished:
            run.final.cancel()

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        """Wait for running tasks, and cancel waiting ones. Ctrl-C and a cancelled flow kill all."""
        if is_urgent(kind):
            self.cancel_all()
        else:
            self._cancel_waiting()
        self._finish()
        super().__exit__(kind, *error)

    # One task run

    def _begin(self, run: Run) -> None:
        """Give a task run to the pool, or end it if its upstream has failed."""
        if run.final.done():
            return
        try:
            request, call = self._requested(run)
            if request is None:
                run.end_unready()
                return
            given = self._pool_here().enqueue(request, call)
        except Exception as error:
            # In a thread: hooks of users run there.
            self._later(run, partial(run.end_with, error))
            return
        run.given = given
        given.add_done_callback(partial(self._ended, run))
        # Cancelled before the pool had it, it is not taken back by `_left`.
        if run.final.cancelled():
            given.cancel()
        elif request.requirement is not None:
            engine().later(_SHOWN_AFTER_SECONDS, lambda: self._later(run, partial(self._show, run)))

    def _requested(self, run: Run) -> tuple[Request | None, Any]:
        """Return the request of a task run and the packed call; no request if its upstream has failed."""
        run.parameters = upstream.states_for_futures(run.parameters)
        run.wait_for = upstream.states_for_futures(run.wait_for)
        arguments = upstream.resolved(run.parameters, run.wait_for)
        if arguments is None:
            return None, None
        asked, task = run.needs
        call = wire.pack((child.perform, (task, run.task_run, arguments, run.sent), {}))
        if asked is None:
            return Request(parent=context.enclosing(), label=run.label), call
        return replace(asked.request(run.label, arguments), run=str(run.task_run.flow_run_id or "")), call

    def _show(self, run: Run) -> None:
        """Show a task run that has no grant yet as waiting."""
        if run.given is not None and self._pool is not None:
            run.show_waiting(self._pool.reason(run.given))

    def _ended(self, run: Run, given: concurrent.futures.Future[State[Any]]) -> None:
        """Pass on the end of a task run in the pool."""
        if given.cancelled():
            run.final.cancel()
        elif (error := given.exception()) is not None:
            self._later(run, partial(run.end_with, error))
        else:
            run.end(given.result())

    def _left(self, run: Run, final: concurrent.futures.Future[State[Any]]) -> None:
        """Note the end of a task run; a cancelled one is taken back from the pool."""
        with self._lock:
            self._open.discard(run)
        if final.cancelled():
            # For `concurrent.futures.wait`, which does not see a cancelled future otherwise.
            final.set_running_or_notify_cancel()
            if run.given is not None:
                run.given.cancel()
            run.context.copy().run(run.show_cancelled)

    # Threads, processes, news

    def _later(self, run: Run, do: Callable[[], None]) -> None:
        """Call `do` in the context of a task run's submitter, in a thread that may block."""
        if run.final.done():
            return
        with self._lock:
            if self._threads is None:
                self._threads = concurrent.futures.ThreadPoolExecutor(
                    _THREADS, thread_name_prefix="prefect-slots-runner"
                )
            threads = self._threads
        # A copy for each call: two threads cannot enter one context at a time.
        threads.submit(run.context.copy().run, do)

    def _pool_here(self) -> supervisor.Supervisor | nested.InnerPool:
        """Return the pool, made at the first task; within a task it is the pool of the flow above."""
        with self._lock:
            if self._pool is None:
                self._pool = nested.inner_pool() if child.ChildContext.pool else self._new_pool()
            return self._pool

    def _new_pool(self) -> supervisor.Supervisor:
        self._news = self._news or forwarding.News()
        env = prefect_private.get_current_settings().to_environment_variables(exclude_unset=True)
        user = by_value.dumps((self.initializer, self.initargs))
        return supervisor.Supervisor(self.max_workers, child.prepare, (env, self._news.address, user))

    def _cancel_waiting(self) -> None:
        with self._lock:
            waiting = [run for run in self._open if run.given is None or not run.given.running()]
        if waiting:
            self.logger.warning(
                "%d task runs had not started when the flow ended and are cancelled."
                " Call `.wait()` or `.result()` on their futures to have them run.",
                len(waiting),
            )
        for run in waiting:
            run.final.cancel()

    def _finish(self) -> None:
        # In this order: task processes speak to the threads' states and to the forwarding until they have ended.
        pool, self._pool = self._pool, None
        if isinstance(pool, supervisor.Supervisor):
            pool.shutdown()
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()
        news, self._news = self._news, None
        if news is not None:
            news.close()

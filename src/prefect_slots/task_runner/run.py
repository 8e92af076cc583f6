"""One submitted task run: its record, the future that the flow holds, and the states that the flow's process gives it.

The task process gives a task run its states while it has one. Beside that the flow's process says that a task run
waits, that it was cancelled, and that it ended without its process.
"""

import concurrent.futures
import copy
from contextlib import nullcontext, suppress
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from prefect import Task
from prefect.client.schemas.objects import RunInput, State, StateDetails, TaskRun
from prefect.context import FlowRunContext
from prefect.futures import PrefectConcurrentFuture
from prefect.states import Cancelled, Crashed, Pending, Running

from prefect_slots.errors import SlotsError, TaskDied
from prefect_slots.pool.task import TaskFuture
from prefect_slots.requiring.prefect_run import AWAITING, propose
from prefect_slots.task_runner.child import by_engine
from prefect_slots.task_runner.needs import Needs
from prefect_slots.task_runner.prefect_private import run_coro_as_sync, task_run_logger

R = TypeVar("R")


@dataclass(eq=False, kw_only=True)
class Run:
    """A submitted task run.

    Attributes:
        context: The submitter's context variables.
        sent: The submitter's Prefect context, for another process.
        given: The pool's future, once the pool has it.
        final: The final state to come; it may be cancelled by any thread at any time.
    """

    needs: Needs
    task_run: TaskRun
    parameters: dict[str, Any]
    wait_for: Any
    context: Context
    sent: dict[str, Any]
    given: TaskFuture | None = None
    final: concurrent.futures.Future[State[Any]] = field(
        default_factory=lambda: concurrent.futures.Future[Any]()  # noqa: PLW0108 - a generic alias is no factory
    )

    @property
    def state(self) -> State[Any]:
        """The state that the flow's process knows of."""
        if self.final.done() and not self.final.cancelled():
            return self.final.result()
        if self.given is not None and self.given.running():
            return Running(
                state_details=StateDetails(task_run_id=self.task_run.id, flow_run_id=self.task_run.flow_run_id)
            )
        return self.task_run.state or Pending()

    @property
    def label(self) -> str:
        """The text for `prefect-slots status`: `"analyse-0 of brave-otter"`."""
        flow_run = FlowRunContext.get()
        above = flow_run.flow_run.name if flow_run is not None and flow_run.flow_run is not None else ""
        return f"{self.task_run.name} of {above}" if above else self.task_run.name

    def end(self, state: State[Any]) -> None:
        """Set the final state, unless it was cancelled meanwhile."""
        self.task_run.state = state
        with suppress(concurrent.futures.InvalidStateError):
            self.final.set_result(state)

    def show_waiting(self, reason: str) -> None:
        """Show it as waiting for resources, with the reason in its own log, unless it has started meanwhile."""
        state = Pending(name=AWAITING, message=reason)
        # Made before the check: a start after the check has the later time, which the server keeps.
        if self.given is not None and not self.given.running() and not self.given.done():
            task_run_logger(task_run=self.task_run, task=self.needs.task).info("%s", reason)
            propose(self.task_run, state)

    def show_cancelled(self) -> None:
        """Show it as cancelled."""
        propose(self.task_run, Cancelled(message="It was cancelled, and its process, if it had one, was killed."))

    def end_unready(self) -> None:
        """End it because its upstream has failed: Prefect's engine says so before it would call the function."""
        self.end(by_engine(self.needs.task, self.task_run, self.parameters, self.wait_for))

    def end_with(self, error: BaseException) -> None:
        """End it after an error beside its process: as failed if it was refused its resources, else as crashed."""
        if isinstance(error, SlotsError) and not isinstance(error, TaskDied):
            self._refuse(error)
            return
        state = Crashed(message=f"{type(error).__name__}: {error}", data=error)
        task_run_logger(task_run=self.task_run, task=self.needs.task).error("Crash detected! %s", state.message)
        propose(self.task_run, state)
        self.end(state)

    def _refuse(self, error: SlotsError) -> None:
        """Fail it as if its function had raised the error: with hooks, in its log."""
        task = copy.copy(self.needs.task)
        # The needs are the same at each attempt.
        task.retries = 0

        def refuse(*_: Any, **__: Any) -> Any:
            raise error.with_traceback(None)

        async def refuse_async(*_: Any, **__: Any) -> Any:
            raise error.with_traceback(None)

        task.fn = refuse_async if task.isasync else refuse
        self.end(by_engine(task, self.task_run, {}))


class SlotFuture(PrefectConcurrentFuture[R]):
    """A task run's future; unlike those of Prefect's own runners it can be cancelled at any time."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.task_run.id, cast("concurrent.futures.Future[R]", run.final))
        self._run = run

    @property
    def state(self) -> State[Any]:
        """The task run's state. No server is asked: Prefect looks at the state of each future that is an argument."""
        return self._final_state or self._run.state

    def cancel(self) -> bool:
        """Take the task back while it waits, kill it while it runs; return whether it had not ended already."""
        return self.wrapped_future.cancel()


def created(
    task: Task[..., Any],
    parameters: dict[str, Any],
    wait_for: Any,
    dependencies: dict[str, set[RunInput]] | None,
) -> TaskRun:
    """Return a new task run, unknown to the server as yet."""
    # A client would only be opened and closed there, at 0.1 s for each task. Without one nothing is awaited, so that
    # one step of the coroutine is all of it; another thread's event loop would cost that thread's turn.
    no_client: Any = nullcontext()
    call = partial(
        task.create_local_run, no_client, parameters=parameters, wait_for=wait_for, extra_task_inputs=dependencies
    )
    coroutine = call()
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    return run_coro_as_sync(call())

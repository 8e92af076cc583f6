"""What the flow's process says of a task run to the server: that it waits, that it ended without its process."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from prefect.logging.loggers import task_run_logger
from prefect.states import Cancelled, Crashed, Pending
from prefect.utilities.engine import emit_task_run_state_change_event

from prefect_slots.requiring.prefect_run import AWAITING, propose
from prefect_slots.task_runner.child import by_engine
from prefect_slots.task_runner.run import Run

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State, TaskRun


def submitted(task_run: TaskRun) -> None:
    """Show a new task run as Pending: it may be a while before it has a process."""
    assert task_run.state is not None
    emit_task_run_state_change_event(task_run=task_run, initial_state=None, validated_state=task_run.state)


def awaiting(reason: str) -> State[Any]:
    """Return the state of a task run that waits for resources."""
    return Pending(name=AWAITING, message=reason)


def waits(run: Run, state: State[Any]) -> None:
    """Show a task run as waiting, and write the reason into its own log."""
    task_run_logger(task_run=run.task_run, task=run.needs.task).info("%s", state.message)
    propose(run.task_run, state)


def cancelled(run: Run) -> None:
    """Show a task run as cancelled."""
    propose(run.task_run, Cancelled(message="It was cancelled, and its process, if it had one, was killed."))


def not_ready(run: Run) -> None:
    """End a task run whose upstream has failed: Prefect's engine says so before it would call the function."""
    run.end(by_engine(run.needs.task, run.task_run, run.parameters, run.wait_for))


def refused(run: Run, error: Exception) -> None:
    """Fail a task run that was not given what it asks for, as if its function had raised it: with hooks, in its log."""
    task = copy.copy(run.needs.task)
    task.retries = 0

    def refuse(*_: Any, **__: Any) -> Any:
        raise error.with_traceback(None)

    async def refuse_async(*_: Any, **__: Any) -> Any:
        raise error.with_traceback(None)

    task.fn = refuse_async if task.isasync else refuse
    run.end(by_engine(task, run.task_run, {}))


def crashed(run: Run, error: BaseException) -> None:
    """End a task run whose process has died, or has an answer that cannot be sent."""
    state = Crashed(message=f"{type(error).__name__}: {error}", data=error)
    task_run_logger(task_run=run.task_run, task=run.needs.task).error("Crash detected! %s", state.message)
    propose(run.task_run, state)
    run.end(state)

"""The Prefect run around a request: its id, name, logger, attempt, and its state while it waits.

Prefect is imported only if the process has imported it already: that takes seconds. Outside a run a wait is logged to
this package's own logger.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect_slots.errors import Impossible, InvalidRequirement, OutOfOrder, UnknownResource
from prefect_slots.limits.prefect_private import emit_task_run_state

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State, TaskRun
    from prefect.context import FlowRunContext, TaskRunContext

AWAITING = "AwaitingResources"
# Errors that the same request meets again, however often Prefect retries it.
_PERMANENT = (Impossible, InvalidRequirement, OutOfOrder, UnknownResource)
_log = logging.getLogger("prefect_slots")


def _contexts() -> tuple[TaskRunContext | None, FlowRunContext | None]:
    """Return the contexts of the task run and of the flow run around the calling code, if any."""
    if "prefect" not in sys.modules:
        return None, None
    from prefect.context import FlowRunContext, TaskRunContext

    return TaskRunContext.get(), FlowRunContext.get()


def run_name() -> str:
    """Return Prefect's name of the run around the calling code, `"analyse-0 of brave-otter"`; empty outside one."""
    task, flow = _contexts()
    names = [task.task_run.name if task else "", (flow.flow_run.name if flow and flow.flow_run else "") or ""]
    return " of ".join(name for name in names if name)


def run_id() -> str:
    """Return the id of the flow run around the calling code, or of the one that started this process; else nothing."""
    task, flow = _contexts()
    known = (task and task.task_run.flow_run_id) or (flow and flow.flow_run and flow.flow_run.id)
    return str(known) if known else os.environ.get("PREFECT__FLOW_RUN_ID", "")


def awaited_by() -> tuple[str, ...]:
    """Return the ids of the flow runs that await the flow run of this process, nearest first.

    They started it by `run_deployment`. The server is asked once in a process, also from a coroutine; without an answer
    the request is one of its own, as outside a run.
    """
    run = os.environ.get("PREFECT__FLOW_RUN_ID", "")
    if not run or "prefect" not in sys.modules:
        return ()
    try:
        return _awaiting(run)
    except Exception as error:
        _log.warning(
            "the flow runs that await flow run %s are not known, so their grants do not serve it: %s", run, error
        )
        return ()


@cache
def _awaiting(run: str) -> tuple[str, ...]:
    from prefect.client.orchestration import get_client

    found: list[str] = []
    with get_client(sync_client=True) as client:
        task: UUID | None = client.read_flow_run(UUID(run)).parent_task_run_id
        while task is not None and (outer := client.read_task_run(task).flow_run_id) is not None:
            found.append(str(outer))
            task = client.read_flow_run(outer).parent_task_run_id
    return tuple(found)


def attempt() -> int:
    """Return the number of the task run's attempt: 1, 2, ...; 1 outside a task run."""
    task, _ = _contexts()
    return max(1, task.task_run.run_count) if task else 1


class RunHooks:
    """Shows a waiting request in the log and, for a task run, as Pending / `AwaitingResources`."""

    def __init__(self, label: str) -> None:
        self._label = label

    def waiting(self, reason: str) -> None:
        """Log the reason once and show the task run as waiting."""
        task, flow = _contexts()
        if task is None and flow is None:
            _log.info("%s %s", self._label, reason)
            return
        from prefect import get_run_logger
        from prefect.states import Pending

        # The run's own log names the run by itself.
        get_run_logger().info("%s", reason)
        _show(task, Pending(name=AWAITING, message=reason))

    def resumed(self) -> None:
        """Show the task run as running again."""
        task, _ = _contexts()
        if task is not None:
            from prefect.states import Running

            _show(task, Running())


def _show(task: TaskRunContext | None, state: State[Any]) -> None:
    # A state is for people only: the task must run even if the server cannot show it.
    try:
        if task is not None:
            propose(task.task_run, state)
    except Exception as error:
        _log.debug("the state %s could not be shown: %s", state.name, error)


def propose(task_run: TaskRun, state: State[Any]) -> None:
    """Tell the server of a task run's new state."""
    state.state_details.task_run_id = task_run.id
    state.state_details.flow_run_id = task_run.flow_run_id
    before = task_run.state
    task_run.state = state
    task_run.state_name = state.name
    task_run.state_type = state.type
    emit_task_run_state(task_run, before, state)


@contextmanager
def no_vain_retry() -> Generator[None]:
    """Tell Prefect not to retry the task run after an error of this block that would only happen again."""
    try:
        yield
    except _PERMANENT:
        task, _ = _contexts()
        if task is not None:
            _forbid_retry(task.task)
        raise


def _forbid_retry(task: Any) -> None:
    asked = task.retry_condition_fn
    # A task object is shared by all runs of the task: it is wrapped once.
    if getattr(asked, "__name__", "").startswith("unless_permanent"):
        return
    if inspect.iscoroutinefunction(asked):

        async def unless_permanent_async(task: Any, task_run: Any, state: Any) -> bool:
            return not isinstance(state.data, _PERMANENT) and bool(await asked(task, task_run, state))

        task.retry_condition_fn = unless_permanent_async
    else:

        def unless_permanent(task: Any, task_run: Any, state: Any) -> bool:
            if isinstance(state.data, _PERMANENT):
                return False
            return asked is None or bool(asked(task, task_run, state))

        task.retry_condition_fn = unless_permanent

"""The run of a task in its process, by Prefect's own engine.

Prefect is imported only once the flow's settings are in the environment: it reads some of them when imported.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import pickle
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from prefect_slots.pool import child

if TYPE_CHECKING:
    from prefect import Task
    from prefect.client.schemas.objects import State, TaskRun


class ChildContext:
    """The pool of the flow, if this is one of its task processes; set by `prepare`.

    Attributes:
        pool: The pool's name; tasks that a task submits go to it.
    """

    pool: str = ""


def prepare(env: dict[str, str], address: str, user: bytes) -> None:
    """Give a new process the flow's settings and way to the server, and call the user's own initializer."""
    os.environ.update(env)
    ChildContext.pool = child.ChildContext.pool
    from prefect_slots.task_runner import forwarding, prefect_private

    forwarding.speak_through(address)
    # One client for all tasks: to make one costs more than most tasks.
    clients = ExitStack()
    clients.enter_context(prefect_private.SyncClientContext.get_or_create())
    atexit.register(clients.close)
    initializer, initargs = pickle.loads(user)
    if initializer is not None:
        initializer(*initargs)


def perform(task: Task[..., Any], task_run: TaskRun, arguments: dict[str, Any], context: dict[str, Any]) -> State[Any]:
    """Run a task as Prefect's own runners do, and return its final state; a crash is one of them."""
    from prefect.states import exception_to_crashed_state

    from prefect_slots.task_runner import forwarding, prefect_private

    with prefect_private.hydrated_context(context):
        try:
            with prefect_private.handle_engine_signals(task_run.id):
                return by_engine(task, task_run, arguments)
        except BaseException as crash:
            state: Any = prefect_private.run_coro_as_sync(exception_to_crashed_state(crash))
            return state
        finally:
            # Before the answer: the process may be killed at any moment after it.
            forwarding.flush()


def by_engine(task: Task[..., Any], task_run: TaskRun, parameters: dict[str, Any], wait_for: Any = None) -> State[Any]:
    """Return the final state of a task that Prefect's engine runs in this thread."""
    from prefect_slots.task_runner import prefect_private

    run: Any = prefect_private.run_task_async if task.isasync else prefect_private.run_task_sync
    state = run(task=task, task_run=task_run, parameters=parameters, wait_for=wait_for, return_type="state")
    return asyncio.run(state) if task.isasync else state

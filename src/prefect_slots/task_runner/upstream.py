"""The futures that a task depends on, waited for without a thread.

A task asks for resources when all of them have ended: no task holds a GPU while it waits for another.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from prefect.client.schemas.objects import TaskRun
from prefect.exceptions import UpstreamTaskError
from prefect.futures import PrefectFuture

from prefect_slots.task_runner import prefect_private


def futures_in(*expressions: Any) -> list[PrefectFuture[Any]]:
    """Return the futures in parameters and `wait_for`, however deep, each once."""
    found: dict[int, PrefectFuture[Any]] = {}

    def note(value: Any) -> Any:
        # Prefect does not look into quoted values either.
        if isinstance(value, prefect_private.quote):
            raise prefect_private.StopVisiting
        if isinstance(value, PrefectFuture):
            found[id(value)] = value
        return value

    for expression in expressions:
        prefect_private.visit_collection(expression, visit_fn=note, return_data=False)
    return list(found.values())


def when_all_have_ended(futures: Sequence[PrefectFuture[Any]], then: Callable[[], None]) -> None:
    """Call `then` once, in the thread of the future that ends last, or here if all have ended."""
    lock = threading.Lock()
    # One more, or futures that end during the loop below would call `then` before all were asked.
    left = len(futures) + 1

    def one_less(_: object = None) -> None:
        nonlocal left
        with lock:
            left -= 1
            is_last = left == 0
        if is_last:
            then()

    for future in futures:
        future.add_done_callback(one_less)
    one_less()


def forget_parents(task_run: TaskRun, before: Sequence[PrefectFuture[Any]]) -> None:
    """Remove the futures that a task run waits for from its parents.

    Prefect takes an argument's task run that is running for the task that this one is submitted within.
    """
    waited_for = {getattr(future, "task_run_id", None) for future in before}
    parents = task_run.task_inputs.pop("__parents__", [])
    if kept := [one for one in parents if getattr(one, "id", None) not in waited_for]:
        task_run.task_inputs["__parents__"] = kept


def states_for_futures(expression: Any) -> Any:
    """Return an expression with the final states of its futures in their place."""

    def state_of(value: Any, context: dict[str, Any]) -> Any:
        if isinstance(context.get("annotation"), prefect_private.quote):
            raise prefect_private.StopVisiting
        if not isinstance(value, PrefectFuture):
            return value
        # It has ended for this process; the server may have to be asked for its state.
        value.wait()
        return value.state

    return prefect_private.visit_collection(expression, visit_fn=state_of, return_data=True, context={})


def resolved(parameters: dict[str, Any], wait_for: Any) -> dict[str, Any] | None:
    """Return the call's arguments, or `None` if a task that it depends on has failed."""
    try:
        arguments = prefect_private.resolve_inputs_sync(parameters)
        prefect_private.visit_collection(
            wait_for, visit_fn=prefect_private.resolve_to_final_result, return_data=False, context={}
        )
    except UpstreamTaskError:
        return None
    return arguments

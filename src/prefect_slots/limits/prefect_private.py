"""Private names of Prefect below the task runner: an event subscriber's websocket, the event of a task run's state.

Prefect promises neither, so each is read in this file only; `tests/unit/test_prefect_names.py` names the versions that
have them. Prefect is imported when a function is called: that takes seconds.
"""

from typing import Any


def websocket_of(subscriber: Any) -> Any | None:
    """Return the open websocket of an event subscriber, or `None` where it has none.

    Without it the moment at which the server has read the filter cannot be known.
    """
    return vars(subscriber).get("_websocket")


def emit_task_run_state(task_run: Any, before: Any, after: Any) -> None:
    """Emit the event by which the server learns of a task run's new state; `before` is `None` for a new run."""
    from prefect.utilities.engine import emit_task_run_state_change_event

    emit_task_run_state_change_event(task_run=task_run, initial_state=before, validated_state=after)

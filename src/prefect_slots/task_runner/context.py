"""The submitter's Prefect context, as it is sent to a task process.

The settings are not in it: a process has them in its environment from birth, and to make them anew from what is sent
would cost each task a tenth of a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect.context import AssetContext, FlowRunContext, TagsContext, TaskRunContext, serialize_context

if TYPE_CHECKING:
    from prefect import Task
    from prefect.client.schemas.objects import TaskRun


class SentContext:
    """The context of one runner's submits: what is the same for all of a flow run is serialised once."""

    def __init__(self) -> None:
        self._of: FlowRunContext | None = None
        self._same: dict[str, Any] = {}

    def sent(self, task: Task[..., Any], task_run: TaskRun) -> dict[str, Any]:
        """Return the calling code's context for a task run in another process."""
        flow_run = FlowRunContext.get()
        if not self._same or flow_run is not self._of:
            self._of, self._same = flow_run, {**serialize_context(), "settings_context": {}}
        above, tags = TaskRunContext.get(), TagsContext.get()
        assets = AssetContext.from_task_and_inputs(
            task,
            task_run.id,
            {name: set(inputs) for name, inputs in task_run.task_inputs.items()},
            copy_to_child_ctx=True,
        )
        return {
            **self._same,
            "task_run_context": above.serialize() if above is not None else {},
            "tags_context": tags.serialize(),
            "asset_context": assets.serialize(),
        }

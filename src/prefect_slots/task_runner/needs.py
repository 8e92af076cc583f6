"""The surroundings of a submit: needs by decoration and by `SlotTaskRunner.options`, and Prefect's context."""

import copy
import inspect
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any, NamedTuple

from prefect import Task
from prefect.client.schemas.objects import TaskRun
from prefect.context import FlowRunContext, TaskRunContext

from prefect_slots.model import Terms
from prefect_slots.requiring.alternatives import any_of, combined
from prefect_slots.requiring.decorator import requires
from prefect_slots.requiring.wrappers import decoration
from prefect_slots.task_runner import prefect_private

_options: ContextVar[requires | None] = ContextVar("prefect_slots_options", default=None)


class Needs(NamedTuple):
    """The needs of a task, and the task itself.

    Attributes:
        asked: Needs that the pool asks for before the task starts; `None` for none.
        task: The task for its process; decorated only if it must ask there.
    """

    asked: requires | None
    task: Task[..., Any]


@contextmanager
def options(alternatives: any_of | None = None, /, **needs: Any) -> Generator[None]:
    """Add to the needs of tasks submitted in this block, or replace them, resource by resource.

    Args:
        alternatives: As for `requires`.
        **needs: As for `requires`.
    """
    token = _options.set(_over(_options.get(), requires(alternatives, **needs)))
    try:
        yield
    finally:
        _options.reset(token)


def needs_of(task: Task[..., Any]) -> Needs:
    """Return the needs of a task that is submitted here and now.

    An amount that depends on the attempt is asked for by the task's process at each attempt: the pool asks once.
    """
    decorated: requires | None = decoration(task.fn)
    bare = task
    if decorated is not None:
        function: Any = task.fn
        bare = copy.copy(task)
        bare.fn = function.__wrapped__
    given = _options.get()
    asked = decorated if given is None else _over(decorated, given)
    # The pool asks once for all attempts.
    if asked is not None:
        amounts = chain.from_iterable(each.values() for each in combined(asked.alternatives, asked.amounts))
        if any(map(_names_attempt, amounts)):
            return Needs(None, asked(bare))
    return Needs(asked, bare)


def _over(under: requires | None, over: requires) -> requires:
    """Return `under`, with the amounts and terms that `over` names in place of its own."""
    if under is None:
        return over
    named = {name for amounts in combined(over.alternatives, over.amounts) for name in amounts}
    # Alternatives are one amount: an outer amount of a resource that an alternative names would contradict it.
    instead = under.alternatives
    if over.alternatives is not None or any(named & alternative.keys() for alternative in instead or ()):
        instead = over.alternatives
    return requires(
        instead,
        **{name: amount for name, amount in under.amounts.items() if name not in named},
        **over.amounts,
        **{**vars(under.terms), **{n: value for n, value in vars(over.terms).items() if value != getattr(Terms, n)}},
    )


def _names_attempt(amount: object) -> bool:
    try:
        return callable(amount) and "attempt" in inspect.signature(amount).parameters
    except (TypeError, ValueError):
        return False  # the request itself will report it


class SentContext:
    """The Prefect context of one runner's submits; the part that is the same for a flow run is serialized once.

    The settings are not in it: a process has them in its environment from birth, and to make them anew would cost each
    task 0.1 s.
    """

    def __init__(self) -> None:
        self._of: FlowRunContext | None = None
        self._same: dict[str, Any] = {}

    def sent(self, task: Task[..., Any], task_run: TaskRun) -> dict[str, Any]:
        """Return the calling code's context for a task run in another process."""
        flow_run = FlowRunContext.get()
        # Serialized anew for another flow run only: it takes milliseconds, and a map has thousands of tasks.
        if not self._same or flow_run is not self._of:
            self._of, self._same = flow_run, {**prefect_private.serialize_context(), "settings_context": {}}
        above, tags = TaskRunContext.get(), prefect_private.TagsContext.get()
        inputs = {name: set(values) for name, values in task_run.task_inputs.items()}
        assets = prefect_private.AssetContext.from_task_and_inputs(task, task_run.id, inputs, copy_to_child_ctx=True)
        return {
            **self._same,
            "task_run_context": above.serialize() if above is not None else {},
            "tags_context": tags.serialize(),
            "asset_context": assets.serialize(),
        }

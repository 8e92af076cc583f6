"""One submitted task run, and the future that the flow holds."""

from __future__ import annotations

import concurrent.futures
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from prefect.client.schemas.objects import StateDetails
from prefect.futures import PrefectConcurrentFuture
from prefect.states import Pending, Running

from prefect_slots.pool.task import TaskFuture
from prefect_slots.task_runner.needs import Needs

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State, TaskRun

R = TypeVar("R")


@dataclass(eq=False, kw_only=True)
class Run:
    """A submitted task run.

    Attributes:
        context: The submitter's context variables.
        sent: The same, for another process.
        given: What the pool was given, once it was.
        final: Its final state, to come; cancelled from anywhere, at any time.
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

    def end(self, state: State[Any]) -> None:
        """Note the final state, unless it was cancelled meanwhile."""
        self.task_run.state = state
        with suppress(concurrent.futures.InvalidStateError):
            self.final.set_result(state)

    @property
    def state(self) -> State[Any]:
        """Its state, as far as the flow's process knows it."""
        if self.final.done() and not self.final.cancelled():
            return self.final.result()
        if self.given is not None and self.given.running():
            return Running(
                state_details=StateDetails(task_run_id=self.task_run.id, flow_run_id=self.task_run.flow_run_id)
            )
        return self.task_run.state or Pending()


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

"""A submitted task, and its future, which can be cancelled while it runs."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from prefect_slots.pool.submission import Order
from prefect_slots.pool.wire import Packed

if TYPE_CHECKING:
    from prefect_slots.pool.dispatch import Queue
    from prefect_slots.pool.grants import PoolGrant

# The states of a `concurrent.futures.Future`, which has no way of its own from running to cancelled.
_PENDING: Final = "PENDING"
_RUNNING: Final = "RUNNING"
_CANCELLED: Final = "CANCELLED"


class TaskFuture(concurrent.futures.Future[Any]):
    """A future whose `cancel` works while its task waits and while it runs: then the task's process is killed."""

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        super().__init__()
        self._on_cancel = on_cancel

    def cancel(self) -> bool:
        """Take the task back; return whether it had not ended already."""
        while True:
            with self._condition:
                if self._state == _RUNNING:
                    self._state = _PENDING  # of which the base class knows how to cancel
            if super().cancel():
                break
            if self.done():
                return False
        with self._condition:
            if self._state == _CANCELLED:
                self.set_running_or_notify_cancel()  # for `wait` and `as_completed`
        self._on_cancel()
        self._let_go()
        return True

    def begin(self) -> bool:
        """Note that the task starts; return whether it still should."""
        with self._condition:
            if self._state != _PENDING:
                return False
            self._state = _RUNNING
            return True

    def succeed(self, value: object) -> None:
        """End with a value, unless it was cancelled meanwhile."""
        with suppress(InvalidStateError):
            self.set_result(value)
            self._let_go()

    def fail(self, error: BaseException) -> None:
        """End with an exception, unless it was cancelled meanwhile."""
        with suppress(InvalidStateError):
            self.set_exception(error)
            self._let_go()

    def _let_go(self) -> None:
        # What is to be done on `cancel` knows the task, which knows this future: both, with the call's arguments, would
        # stay until the garbage collector comes by.
        self._on_cancel = _nothing


def _nothing() -> None:
    return


@dataclass(eq=False, kw_only=True, slots=True)
class Task:
    """A submitted call.

    Attributes:
        read: Makes of what the task process sends what the future is given.
        under: What it uses if it asks for nothing: what encloses it.
        within: The task that submitted it, if one did.
        inner: The tasks that it has submitted itself and that have not ended.
        lent: How many of those run.
        numbered: The futures of all that it has submitted, by the numbers that it knows them by.
        queue: Where it waits, or was when it was started.
        alarm: What ends its waiting.
    """

    order: Order
    call: Packed
    read: Callable[[Packed], Any]
    under: PoolGrant
    future: TaskFuture = field(init=False)
    within: Task | None = None
    inner: set[Task] = field(default_factory=set["Task"])
    lent: int = 0
    numbered: dict[int, TaskFuture] = field(default_factory=dict[int, TaskFuture])
    queue: Queue | None = None
    alarm: concurrent.futures.Future[None] | None = None


def settle(
    future: TaskFuture, read: Callable[[Packed], Any], value: Packed | None, error: BaseException | None
) -> None:
    """Tell a future how its task ended: with a value to be read, or with an error."""
    if error is None and value is not None:
        try:
            future.succeed(read(value))
        except BaseException as unreadable:
            future.fail(unreadable)
    elif error is not None:
        future.fail(error)


def silence(task: Task) -> None:
    """Let a task wait no more against its limit."""
    if task.alarm is not None:
        task.alarm.cancel()


def fail_elsewhere(future: TaskFuture, error: BaseException) -> None:
    """Let a future fail from the engine's thread, in which no callback of a user's may run."""
    threading.Thread(target=future.fail, args=(error,), daemon=True).start()


def deadline(seconds: float | None) -> float | None:
    """Return when that many seconds from now will have passed."""
    return None if seconds is None else time.monotonic() + seconds


def results_of(futures: Sequence[TaskFuture], until: float | None) -> Iterator[Any]:
    """Yield the futures' results in order; what has not ended when it is closed is cancelled."""
    ahead = list(futures)[::-1]
    try:
        while ahead:
            left = None if until is None else max(0.0, until - time.monotonic())
            # Not kept: a result must be free to go once its taker lets go of it.
            yield _taken(ahead, left)
    finally:
        for future in ahead:
            future.cancel()


def _taken(ahead: list[TaskFuture], seconds: float | None) -> Any:
    # Left in the list until it has a result: one that is waited for in vain is cancelled with the others.
    result = ahead[-1].result(seconds)
    ahead.pop()
    return result


def is_urgent(kind: type[BaseException] | None) -> bool:
    """Tell whether a block is left in haste, by Ctrl-C or a cancellation, so that what runs is killed."""
    return kind is not None and not issubclass(kind, Exception)

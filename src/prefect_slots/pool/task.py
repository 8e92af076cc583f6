"""A submitted task, its future, which can be cancelled while it runs, and the executor interface that returns it."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from prefect_slots.model.request import Request
from prefect_slots.pool.submission import Submission
from prefect_slots.pool.wire import Packed

if TYPE_CHECKING:
    from prefect_slots.pool.grants import PoolGrant
    from prefect_slots.requiring.alternatives import any_of
    from prefect_slots.requiring.decorator import requires

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

    def settle(self, read: Callable[[Packed], Any], value: Packed | None, error: BaseException | None) -> None:
        """End with a value to be read, or with an error, unless it was cancelled meanwhile."""
        if value is not None and error is None:
            try:
                result = read(value)
            except BaseException as unreadable:
                error = unreadable
            else:
                with suppress(InvalidStateError):
                    self.set_result(result)
                    self._let_go()
                return
        if error is not None:
            self.fail(error)

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
        alarm: What ends its waiting.
    """

    request: Request
    call: Packed
    read: Callable[[Packed], Any]
    under: PoolGrant
    future: TaskFuture = field(init=False)
    within: Task | None = None
    inner: set[Task] = field(default_factory=set["Task"])
    lent: int = 0
    numbered: dict[int, TaskFuture] = field(default_factory=dict[int, TaskFuture])
    alarm: concurrent.futures.Future[None] | None = None

    def silence(self) -> None:
        """Let it wait no more against its limit."""
        if self.alarm is not None:
            self.alarm.cancel()

    def fail_elsewhere(self, error: BaseException) -> None:
        """Let its future fail from the engine's thread, in which no callback of a user's may run."""
        self.silence()
        threading.Thread(target=self.future.fail, args=(error,), daemon=True).start()


class TaskExecutor(concurrent.futures.Executor):
    """An executor of tasks: the interface of `SlotPool` that its handle within a task has too.

    Args:
        enqueue: Takes what a call asks for and the packed call, and returns its future.
    """

    def __init__(self, enqueue: Callable[[Request, Packed], TaskFuture]) -> None:
        self._enqueue = enqueue

    def submit(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        requires: requires | any_of | Mapping[str, Any] | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> TaskFuture:
        """Have `fn(*args, **kwargs)` called in a task process once this machine can give it what it needs.

        Within a task, what the call needs is drawn from the task's grant where that covers it.

        Args:
            fn: A function or a coroutine function. What it was decorated with by `@requires` is asked for.
            *args: Its arguments.
            requires: What it needs: `dict(gpu_mem=8)`, with `timeout=` for the seconds of waiting and `priority=`, or
                a `requires(...)` object.
            timeout: Seconds that it may run; then it is killed and the future raises `TaskTimeout`.
            **kwargs: Its arguments by name. (For a function with parameters of the two names, use `partial`.)

        Returns:
            A future; its `cancel` takes the task back while it waits and kills it while it runs.

        Raises:
            InvalidRequirement: if `requires` is no requirement.
            RuntimeError: if the pool is shut down.
        """
        return self._enqueue(*Submission(fn, requires, timeout).request(args, kwargs))

    def _submit_all(
        self,
        fn: Callable[..., Any],
        iterables: Iterable[Iterable[Any]],
        timeout: float | None,
        requires: requires | any_of | Mapping[str, Any] | None,
        task_timeout: float | None,
    ) -> tuple[list[TaskFuture], Iterator[Any]]:
        """Submit the calls of a map, and return their futures and an iterator over their results."""
        until = None if timeout is None else time.monotonic() + timeout
        submission = Submission(fn, requires, task_timeout)
        futures: list[TaskFuture] = []
        try:
            for args in zip(*iterables):  # noqa: B905 - as `Executor.map`
                futures.append(self._enqueue(*submission.request(args, {})))  # noqa: PERF401 - each known if one fails
        except BaseException:
            # Nobody could have the results of those before it.
            for future in futures:
                future.cancel()
            raise
        return futures, results_of(futures, until)


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

"""A submitted task: the request of its call, its future, and the executor interface that returns it.

A request is made where its call is submitted. A decorated function is called beneath its decoration, because the pool
asks in its place. With `requires=` beside it the decoration stays: it is then a request within that grant.

The future can be cancelled while the task runs.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from prefect_slots import requiring
from prefect_slots.errors import InvalidRequirement
from prefect_slots.model import Request
from prefect_slots.pool.child import Admitted
from prefect_slots.pool.wire import Packed, pack
from prefect_slots.requiring import context, wrappers

# A task process that only passes the pool on must not pay 0.2 s for imports of the decorator and the ledger's client;
# the names of `requiring` are loaded at first use.
if TYPE_CHECKING:
    from prefect_slots.pool.grants import PoolGrant

Wanted: TypeAlias = "requiring.requires | requiring.any_of | Mapping[str, Any] | None"

# The states of a `concurrent.futures.Future`, the same since Python 3.2. The class knows no way from running to
# cancelled, which a task with a process of its own has.
_PENDING = "PENDING"
_RUNNING = "RUNNING"
_CANCELLED = "CANCELLED"


class Submission:
    """The requests of one function's calls: one for all of them if no amount depends on the call.

    Args:
        function: The function as submitted.
        wanted: The `requires=` beside it, if any.
        limit: Seconds of running for each call, or `None`.

    Raises:
        InvalidRequirement: if `wanted` is no requirement, or `limit` no number of seconds.
    """

    def __init__(self, function: Callable[..., Any], wanted: Wanted, limit: float | None) -> None:
        asked = _requires(wanted)
        self._called = function
        if asked is None:
            asked = wrappers.decoration(function)
            self._called = function if asked is None else Admitted(function)
        self._function, self._asked = function, asked
        self._request = Request(limit=limit, parent=context.enclosing(), label=wrappers.site_of(function))
        if asked is not None and not asked.asks_the_call:
            self._request = self._requested(asked, {})

    def request(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Request, Packed]:
        """Return the request of a call, and the call itself, packed.

        Raises:
            Exception: any error of pickling the function or an argument, or of a callable amount.
        """
        request = self._request
        if self._asked is not None and self._asked.asks_the_call:
            request = self._requested(self._asked, wrappers.arguments_of(self._function, args, kwargs))
        return request, pack((self._called, args, kwargs))

    def _requested(self, asked: requiring.requires, arguments: Mapping[str, Any]) -> Request:
        return replace(asked.request(self._request.label, arguments), limit=self._request.limit)


def _requires(wanted: Wanted) -> requiring.requires | None:
    if wanted is None:
        return None
    if isinstance(wanted, requiring.any_of):
        return requiring.requires(wanted)
    if isinstance(wanted, requiring.requires):
        return wanted
    if not isinstance(wanted, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequirement(key="", value=repr(wanted), reason="write requires=dict(gpu_mem=8)")
    try:
        # With the types, or `True`, which is no amount, would be found where `1` was given before.
        return _declared(tuple((name, type(value), value) for name, value in wanted.items()))
    except TypeError:  # a value that is not hashable: a mapping of licenses
        return requiring.requires(**wanted)


# The check of a requirement takes longer than all else of a submit; a program has a few kinds of calls.
@lru_cache(maxsize=256)
def _declared(items: tuple[tuple[str, type[Any], Any], ...]) -> requiring.requires:
    return requiring.requires(**{name: value for name, _, value in items})


class TaskFuture(concurrent.futures.Future[Any]):
    """A future whose `cancel` works while its task waits and while it runs: then the task's process is killed."""

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        super().__init__()
        self._on_cancel = on_cancel

    def cancel(self) -> bool:
        """Cancel the task and return `True`, or `False` if it has ended already."""
        while True:
            with self._condition:
                if self._state == _RUNNING:
                    self._state = _PENDING  # the base class can cancel from this state only
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
        """Note that the task starts, and return `True`; `False` if it was cancelled."""
        with self._condition:
            if self._state != _PENDING:
                return False
            self._state = _RUNNING
            return True

    def settle(self, read: Callable[[Packed], Any], value: Packed | None, error: BaseException | None) -> None:
        """End with `read(value)`, or with an error, unless it was cancelled meanwhile."""
        result = None
        if error is None and value is not None:
            try:
                result = read(value)
            except BaseException as unreadable:
                error = unreadable
        if error is not None:
            self.fail(error)
            return
        with suppress(concurrent.futures.InvalidStateError):
            self.set_result(result)
            self._let_go()

    def fail(self, error: BaseException) -> None:
        """End with an exception, unless it was cancelled meanwhile."""
        with suppress(concurrent.futures.InvalidStateError):
            self.set_exception(error)
            self._let_go()

    def _let_go(self) -> None:
        # The callback knows the task, which knows this future: both, with the call's arguments, would stay until the
        # next run of the garbage collector.
        self._on_cancel = lambda: None


@dataclass(eq=False, kw_only=True, slots=True)
class Task:
    """A submitted call.

    Attributes:
        read: Converts the task process's reply to the future's result.
        under: Enclosing grant, in use if the call asks for nothing.
        within: The task that submitted it, if any.
        inner: Tasks that it has submitted itself and that have not ended.
        lent: Number of those that run.
        numbered: Futures of all that it has submitted, by the numbers that its process gave them.
        alarm: Timer of its limit on waiting.
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
        """Stop the timer of its limit on waiting."""
        if self.alarm is not None:
            self.alarm.cancel()

    def fail_elsewhere(self, error: BaseException) -> None:
        """Fail its future in a thread of its own: callbacks of users must not run in the engine's thread."""
        self.silence()
        threading.Thread(target=self.future.fail, args=(error,), daemon=True).start()


class TaskExecutor(concurrent.futures.Executor):
    """The interface of `SlotPool` that its handle within a task has too.

    Args:
        enqueue: Returns the future of a request and its packed call.
    """

    def __init__(self, enqueue: Callable[[Request, Packed], TaskFuture]) -> None:
        self._enqueue = enqueue

    def submit(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        requires: Wanted = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> TaskFuture:
        """Call `fn(*args, **kwargs)` in a task process once this machine can grant its needs.

        Within a task the needs are drawn from the task's grant where that covers them.

        Args:
            fn: A function or a coroutine function; its needs are those of its `@requires` decoration, if any.
            *args: Its arguments.
            requires: Its needs: `dict(gpu_mem=8)`, with `timeout=` for the seconds of waiting and `priority=`, or
                a `requires(...)` object.
            timeout: Seconds of running after which it is killed and the future raises `TaskTimeout`.
            **kwargs: Its arguments by name. (For a function with parameters of the two names, use `partial`.)

        Returns:
            A future; its `cancel` takes the task back while it waits and kills it while it runs.

        Raises:
            InvalidRequirement: if `requires` is no requirement.
            RuntimeError: if the pool is shut down.
        """
        return self._enqueue(*Submission(fn, requires, timeout).request(args, kwargs))

    def map(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        requires: Wanted = None,
        task_timeout: float | None = None,
        progress: bool = False,
    ) -> Iterator[Any]:
        """Return the results of `fn` over the iterables, in order, as `Executor.map` does.

        Args:
            fn: As for `submit`.
            *iterables: The arguments.
            timeout: Seconds from now after which `TimeoutError` is raised and all unfinished calls are cancelled.
            chunksize: Without effect: every call has a grant of its own.
            requires: As for `submit`, for each call.
            task_timeout: Seconds of running for each call.
            progress: Show the counts of done, running and waiting calls on the terminal, and the reasons for waiting.
        """
        del chunksize
        submission = Submission(fn, requires, task_timeout)
        until = None if timeout is None else time.monotonic() + timeout
        futures: list[TaskFuture] = []
        try:
            for args in zip(*iterables):  # noqa: B905 - as `Executor.map`
                futures.append(self._enqueue(*submission.request(args, {})))  # noqa: PERF401 - each known if one fails
        except BaseException:
            # The results of the calls before it would be lost.
            for future in futures:
                future.cancel()
            raise
        results = results_of(futures, until)
        if not progress:
            return results
        # Rich takes as long to import as the rest of the pool.
        from prefect_slots.pool.progress import shown

        return shown(results, futures, getattr(fn, "__name__", "map"), self.reasons)

    def reasons(self) -> list[str]:
        """Return the reasons for which tasks wait now, one for each kind of task."""
        raise NotImplementedError


def results_of(futures: Sequence[TaskFuture], until: float | None) -> Iterator[Any]:
    """Yield the futures' results in order; closing cancels all that have not ended."""
    ahead = list(futures)[::-1]
    try:
        while ahead:
            left = None if until is None else max(0.0, until - time.monotonic())
            # No name holds the result here: a large one must be freed as soon as the caller drops it.
            yield _taken(ahead, left)
    finally:
        for future in ahead:
            future.cancel()


def _taken(ahead: list[TaskFuture], seconds: float | None) -> Any:
    # Left in the list until it has a result: after a timeout it is cancelled with the others.
    result = ahead[-1].result(seconds)
    ahead.pop()
    return result


def is_urgent(kind: type[BaseException] | None) -> bool:
    """Return whether a block is left by Ctrl-C or a cancellation, so that running tasks are killed."""
    return kind is not None and not issubclass(kind, Exception)

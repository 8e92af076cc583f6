"""The executor that people use: `SlotPool`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from prefect_slots.pool import nested
from prefect_slots.pool.supervisor import IDLE_SECONDS, TURN_SECONDS, Supervisor
from prefect_slots.pool.task import TaskExecutor, TaskFuture, is_urgent

if TYPE_CHECKING:
    from prefect_slots.requiring.alternatives import any_of
    from prefect_slots.requiring.decorator import requires


class SlotPool(TaskExecutor):
    """A process pool whose tasks run when this machine can give them what they need.

    It shares the machine's ledger with every other pool, worker, `requires(...)` and `prefect-slots run`. A task's
    process is pinned to its cards and cores before anything of it is imported. A task that asks for nothing runs when
    a process is free.

    Args:
        max_workers: How many tasks run at once. By default as many as the ledger grants, and of those that ask for
            nothing as many as there are cores.
        initializer: Called in each process before its first task; the task fails if it raises.
        initargs: Its arguments.
        idle_seconds: After which an idle process ends.
        turn_seconds: How long a grant serves one task of a shape after another although others wait.

    Settings and the state folder are those of the moment at which the pool is made.

    Examples:
        >>> from prefect_slots import SlotPool
        >>> with SlotPool() as pool:
        ...     future = pool.submit(train, path, requires=dict(gpu_mem=8))
        ...     for result in pool.map(infer, images, requires=dict(gpu_mem=4), progress=True): ...
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        idle_seconds: float = IDLE_SECONDS,
        turn_seconds: float = TURN_SECONDS,
    ) -> None:
        self._supervisor = Supervisor(max_workers, initializer, initargs, idle_seconds, turn_seconds)
        super().__init__(self._supervisor.enqueue)
        self._supervisor.handle = self
        nested.here[self._supervisor.name] = self

    def __repr__(self) -> str:
        return f"<SlotPool {self._supervisor}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Within a task the pool is spoken to over the task's own process.
        return nested.pool_named, (self._supervisor.name,)

    def map(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        requires: requires | any_of | Mapping[str, Any] | None = None,
        task_timeout: float | None = None,
        progress: bool = False,
    ) -> Iterator[Any]:
        """Return the results of `fn` over the iterables, in order, as `Executor.map` does.

        Args:
            fn: As for `submit`.
            *iterables: The arguments.
            timeout: Seconds from now after which `TimeoutError` is raised and what has not ended is cancelled.
            chunksize: Without effect: every call has a grant of its own.
            requires: As for `submit`, for each call.
            task_timeout: Seconds that each call may run.
            progress: Show on the terminal how many are done, run and wait, and what for.
        """
        del chunksize
        futures, results = self._submit_all(fn, iterables, timeout, requires, task_timeout)
        if not progress:
            return results
        from prefect_slots.pool.progress import shown

        return shown(results, futures, getattr(fn, "__name__", "map"), self.reasons)

    def reasons(self) -> list[str]:
        """Say what the tasks that wait wait for, as the ledger sees it now."""
        return self._supervisor.reasons()

    def reason(self, future: TaskFuture) -> str:
        """Say what one task waits for; empty if it does not wait."""
        return self._supervisor.reason(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, kill: bool = False) -> None:
        """Take no more tasks, and end once those that there are have ended.

        Args:
            wait: Until everything has ended.
            cancel_futures: Cancel the tasks that wait.
            kill: Cancel those that run as well.
        """
        self._supervisor.shutdown(wait, cancel_futures=cancel_futures, kill=kill)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """End as `shutdown` does; Ctrl-C kills what runs."""
        self.shutdown(kill=is_urgent(kind))
        return None

    async def __aenter__(self) -> SlotPool:
        """Return the pool."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End as `shutdown` does, without blocking the event loop; a cancelled block kills what runs."""
        await asyncio.shield(asyncio.to_thread(self.shutdown, kill=is_urgent(kind)))

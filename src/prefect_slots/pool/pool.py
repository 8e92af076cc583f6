"""The public executor: `SlotPool`, with the methods for users only."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self

from prefect_slots.pool import nested, supervisor, task


class SlotPool(task.TaskExecutor):
    """A process pool whose tasks run once this machine can grant their needs.

    It shares the machine's ledger with every other pool, worker, `requires(...)` and `prefect-slots run`. A task's
    process is pinned to its GPUs and cores before its first import. A task without needs runs when a process is free.

    Args:
        max_workers: Number of tasks that run at once. By default as many as the ledger grants, and of tasks without
            needs as many as there are cores.
        initializer: Called in each process before its first task; the task fails if it raises.
        initargs: Its arguments.
        idle_seconds: Seconds after which an idle process ends.
        turn_seconds: Seconds for which a grant serves one task of a shape after another although others wait.

    Raises:
        ValueError: if `max_workers` is less than 1, or a number of seconds less than 0.

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
        idle_seconds: float = supervisor.IDLE_SECONDS,
        turn_seconds: float = supervisor.TURN_SECONDS,
    ) -> None:
        self._supervisor = supervisor.Supervisor(max_workers, initializer, initargs, idle_seconds, turn_seconds)
        super().__init__(self._supervisor.enqueue)
        self._supervisor.handle = self
        nested.here[self._supervisor.name] = self

    def __repr__(self) -> str:
        return f"<SlotPool {self._supervisor}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Within a task the pool is reached over the connection of the task's own process.
        return nested.pool_named, (self._supervisor.name,)

    def reasons(self) -> list[str]:
        """Return the reasons for which tasks wait now, one for each kind of task."""
        return self._supervisor.reasons()

    def reason(self, future: task.TaskFuture) -> str:
        """Return the reason for which one task waits now; empty if it does not wait."""
        return self._supervisor.reason(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, kill: bool = False) -> None:
        """Refuse new tasks, and end the processes once all tasks have ended.

        Args:
            wait: Return only when everything has ended.
            cancel_futures: Cancel waiting tasks.
            kill: Cancel waiting and running tasks.
        """
        self._supervisor.shutdown(wait, cancel_futures=cancel_futures, kill=kill)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End as `shutdown` does; Ctrl-C kills running tasks."""
        self.shutdown(kill=task.is_urgent(kind))

    async def __aenter__(self) -> Self:
        """Return the pool."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End as `shutdown` does, without blocking the event loop; a cancelled block kills running tasks."""
        # Cancelled once more, it would leave processes behind.
        await asyncio.shield(asyncio.to_thread(self.shutdown, kill=task.is_urgent(kind)))

"""The handle of a pool within its tasks: submissions go to the pool's own process, over the task's connection.

A pool that is pickled into a task, as an argument or as a global of the task's function, becomes this handle there.
"""

import concurrent.futures
import pickle
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any
from weakref import WeakValueDictionary

from prefect_slots.model import Request
from prefect_slots.pool import child, wire
from prefect_slots.pool.task import Task, TaskExecutor, TaskFuture

# The pools of this process, by name; weak, because a pool that nobody can reach must be free to go.
here: WeakValueDictionary[str, TaskExecutor] = WeakValueDictionary()
_REASON = "waits for resources beside those of the task that submitted it"


class InnerPool(TaskExecutor):
    """The pool, within one of its tasks: submissions over the task process's connection; a seam as `Supervisor` is.

    Tasks that a task has submitted end with it.
    """

    def __init__(self, side: wire.Wire) -> None:
        super().__init__(self.enqueue)
        self._side = side
        self._lock = threading.Lock()
        self._futures: dict[int, TaskFuture] = {}
        self._last = 0
        threading.Thread(target=self._listen, name="prefect-slots-inner", daemon=True).start()

    def __reduce__(self) -> tuple[Any, ...]:
        # Sent on to another task it is the pool there; sent back it is the `SlotPool` itself.
        return pool_named, (child.ChildContext.pool,)

    def enqueue(self, request: Request, call: wire.Packed) -> TaskFuture:
        """Submit a packed call, to be made in another task process."""
        with self._lock:
            self._last += 1
            number = self._last
            future = self._futures[number] = TaskFuture(partial(self._cancel, number))
        self._side.send(wire.Kind.SUBMIT, wire.Packed(pickle.dumps((number, request, bytes(call.body))), call.buffers))
        return future

    def reason(self, future: TaskFuture) -> str:
        """Return the reason for which a task waits; the ledger's own words stay with the pool."""
        del future
        return _REASON

    def reasons(self) -> list[str]:
        """Return the reason for which tasks wait."""
        return [_REASON]

    def _cancel(self, number: int) -> None:
        with suppress(OSError):
            self._side.send(wire.Kind.CANCEL, wire.Packed(pickle.dumps(number)))

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                kind, packed = self._side.receive()
                number, body = pickle.loads(packed.body)
                with self._lock:
                    future = self._futures.pop(number, None)
                if future is not None:
                    answer = wire.Packed(body, packed.buffers)
                    if kind is wire.Kind.DONE:
                        future.settle(wire.unpack, answer, None)
                    elif kind is wire.Kind.FAILED:
                        future.fail(child.raised(answer))
                    else:
                        future.cancel()


@cache
def inner_pool() -> InnerPool:
    """Return the pool of this task process."""
    assert child.ChildContext.side is not None
    return InnerPool(child.ChildContext.side)


def pool_named(name: str) -> TaskExecutor:
    """Return the pool of that name: the pool itself in its own process, a handle in its task processes.

    Raises:
        RuntimeError: if this process has not made it and does not work for it.
    """
    if name in here:
        return here[name]
    if name != child.ChildContext.pool or child.ChildContext.side is None:
        raise RuntimeError("a SlotPool can be sent to its own tasks only")
    return inner_pool()


def hear(enqueue: Callable[..., TaskFuture], side: wire.Wire, task: Task) -> None:
    """Read all messages of a task to the pool, in the pool's process."""
    has_more = True
    while has_more:
        kind, packed = side.receive()
        if kind is wire.Kind.CANCEL:
            if (future := task.numbered.get(pickle.loads(packed.body))) is not None:
                future.cancel()
        else:
            number, request, body = pickle.loads(packed.body)
            future = enqueue(request, wire.Packed(body, packed.buffers), _as_it_came, within=task)
            task.numbered[number] = future
            future.add_done_callback(partial(_reply, side, number))
        # Messages that came in one read: `poll` does not report them again.
        has_more = side.has_more


def _as_it_came(packed: wire.Packed) -> wire.Packed:
    # The pool's process only passes the result on: it may lack the modules of its class.
    return packed


def _reply(side: wire.Wire, number: int, ended: concurrent.futures.Future[Any]) -> None:
    if ended.cancelled():
        kind, answer = wire.Kind.CANCELLED, wire.Packed(b"")
    elif (error := ended.exception()) is not None:
        kind, answer = wire.Kind.FAILED, child.told(error)
    else:
        kind, answer = wire.Kind.DONE, ended.result()
    # The task that waits for it may have ended, and its process with it.
    with suppress(OSError):
        side.send(kind, wire.Packed(pickle.dumps((number, bytes(answer.body))), answer.buffers))

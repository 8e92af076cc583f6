"""The program of a task process: takes calls, one at a time, until the pool closes the connection or dies.

Its environment is set before it starts, so that every import of a call finds it pinned. Little is imported here: the
first result waits for it.
"""

import os
import pickle
import signal
import socket
import sys
from types import CoroutineType
from typing import Any

from prefect_slots import requiring
from prefect_slots.pool.wire import Kind, Packed, Wire, pack, unpack

# From <linux/prctl.h>: the signal that the kernel sends when the parent thread ends.
_PR_SET_PDEATHSIG = 1
# Written out here: the modules that own these names import more than a task process needs.
_TOKEN = "PREFECT_SLOTS_GRANT"
_STATE_DIR = "PREFECT_SLOTS_STATE_DIR"


class ChildContext:
    """The pool of this process, if it is a task process; set by `main`.

    Attributes:
        pool: The pool's name.
        side: The connection on which tasks speak to the pool.
    """

    pool: str = ""
    side: Wire | None = None


def main(pool: str, tasks: int, side: int, parent: int) -> None:
    """Serve the pool whose process is `parent` over two inherited sockets."""
    # Blocked signals are inherited from the starting thread, which leaves them to the pool's main thread.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    lifeline = Wire(socket.socket(fileno=tasks))
    _die_with(parent, lifeline)
    ChildContext.pool, ChildContext.side = pool, Wire(socket.socket(fileno=side))
    enclosing = _Enclosing()
    try:
        while True:
            kind, packed = lifeline.receive()
            if kind is Kind.GRANT:
                enclosing.enter(*pickle.loads(packed.body))
            else:
                lifeline.send(*perform(packed))
    except (EOFError, OSError):
        return


def _die_with(parent: int, lifeline: Wire) -> None:
    """End this process when the pool's process dies, even in the middle of a call: its cells are granted anew then."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have died before the line above.
        if os.getppid() != parent:
            os._exit(1)
    else:
        import select
        import threading

        def watch() -> None:
            poll = select.poll()
            poll.register(lifeline.fileno(), select.POLLHUP)
            poll.poll()
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=watch, daemon=True).start()


class Admitted:
    """A call beneath the `requires` decoration of a function: the pool has asked in its place."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function that was decorated."""
        return self.function.__wrapped__(*args, **kwargs)


def perform(packed: Packed) -> tuple[Kind, Packed]:
    """Make a call, and return its result or error as a message."""
    try:
        function, args, kwargs = unpack(packed)
        value = function(*args, **kwargs)
        if isinstance(value, CoroutineType):
            import asyncio

            value = asyncio.run(value)
        return Kind.DONE, pack(value)
    except BaseException as error:
        return Kind.FAILED, told(error)


def told(error: BaseException) -> Packed:
    """Pack an exception with the text of its traceback."""
    # Tasks that succeed must not pay for this import.
    import traceback

    text = "".join(traceback.format_exception(error))
    try:
        packed = pack(error)
        # Many an exception can be pickled and not unpickled: its `__init__` has other arguments than its `args`.
        unpack(packed)
    except Exception as unfit:
        kind = type(error)
        said = f"{kind.__module__}.{kind.__qualname__}: {error} (it cannot be sent itself: {unfit!r})"
        packed = pack(pickle.PicklingError(said))
    return Packed(pickle.dumps((text, bytes(packed.body))), packed.buffers)


class RemoteTraceback(Exception):
    """The cause of an exception that was raised in a task process: the text of its traceback there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def raised(packed: Packed) -> BaseException:
    """Return the exception that `told` packed; its cause is the text of its traceback."""
    text, body = pickle.loads(packed.body)
    try:
        error = unpack(Packed(body, packed.buffers))
    except Exception as unknown:
        error = unknown
    error.__cause__ = RemoteTraceback(text)
    return error


class _Enclosing:
    """The grant around this process's task, for requests within the task."""

    def __init__(self) -> None:
        self._born = {name: os.environ.get(name) for name in (_TOKEN, _STATE_DIR)}
        self._held: bytes | None = None
        self._label = ""
        self._grant: requiring.Grant | None = None

    def enter(self, token: str, folder: str, held: bytes | None, label: str) -> None:
        """Make the grant of that token the enclosing one; an empty token means the surroundings of the pool."""
        given = {_TOKEN: token, _STATE_DIR: folder} if token else self._born
        for name, value in given.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self._grant is not None:
            self._grant.ended = True
        self._held, self._label, self._grant = held, label, None
        if held is not None:
            from prefect_slots.requiring.context import inherit

            inherit(self.grant)

    def grant(self) -> "requiring.Grant | None":
        """Return the grant, made at the first call: most tasks never ask for it."""
        if self._grant is None and self._held is not None:
            held, amounts = pickle.loads(self._held)
            self._grant = requiring.Grant(held, None, self._label, None, amounts)
        # A forked child has no part in its parent's grant.
        grant = self._grant
        return grant if grant is not None and grant.pid == os.getpid() else None

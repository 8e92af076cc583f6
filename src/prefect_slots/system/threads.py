"""Calls that may hang, in daemon threads: a call is abandoned when its time is up.

A call into a driver that hangs cannot be ended from outside. So neither a caller nor the end of the process waits for
its thread, and while it hangs no second call of that name is made.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def call_in_thread(call: Callable[[], T], name: str) -> Future[T]:
    """Return the answer to come of `call`, made in a daemon thread: no caller has to wait for it, and no exit does."""
    answer: Future[T] = Future()
    # A cancelled future would refuse the answer; the call cannot be cancelled anyway.
    answer.set_running_or_notify_cancel()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return answer


async def await_in_thread(call: Callable[[], T], name: str) -> T:
    """Return the answer of `call`, made in a daemon thread: a driver that hangs stops neither the loop nor an exit."""
    # Not at the top: programs without a loop use this module, too, and the import takes 40 ms.
    import asyncio

    return await asyncio.wrap_future(call_in_thread(call, name))


@dataclass(frozen=True)
class Look:
    """A call, and the seconds after which it is abandoned."""

    call: Callable[[], Any]
    seconds: float


@dataclass(frozen=True)
class Hanging:
    """The place of an answer that did not come in time, with the reason in words."""

    words: str


@dataclass(frozen=True)
class _Sent:
    answer: Future[Any]
    at: float
    seconds: float

    @property
    def is_abandoned(self) -> bool:
        return not self.answer.done() and time.monotonic() - self.at > self.seconds


class Lookout:
    """Makes several calls at once, and remembers those that hang."""

    def __init__(self) -> None:
        self._sent: dict[str, _Sent] = {}
        self._lock = threading.Lock()

    def send(self, looks: Mapping[str, Look]) -> dict[str, Any]:
        """Return each call's answer by name, or `Hanging`, in the time of the slowest call: its limit at most.

        Raises:
            BaseException: the error of a call.
        """
        sent = {name: self._send(name, look) for name, look in looks.items()}
        return {name: _answer(*one) for name, one in sent.items()}

    def _send(self, name: str, look: Look) -> tuple[_Sent, bool]:
        """Make the call, or return the one that hangs; the flag says that it was made now."""
        with self._lock:
            before = self._sent.get(name)
            if before is not None and before.is_abandoned:
                return before, False
            sent = self._sent[name] = _Sent(call_in_thread(look.call, name), time.monotonic(), look.seconds)
            return sent, True


def _answer(sent: _Sent, now: bool) -> Any:
    try:
        return sent.answer.result(max(0.0, sent.at + sent.seconds - time.monotonic()))
    except NotYet:
        # The call itself may have raised this very error.
        if sent.answer.done():
            return sent.answer.result()
    if now:
        return Hanging(f"did not answer within {sent.seconds:g} s")
    return Hanging(f"has not answered for {time.monotonic() - sent.at:.0f} s")


# One for the whole process: a driver that hangs for one caller is not called by another.
LOOKOUT = Lookout()

"""Looks that may hang: each runs in a daemon thread, and is left behind when its time is up.

A call into a driver that hangs cannot be ended from outside. So nobody waits for its thread, the end of the process
included, and while it hangs no second one is sent after it.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Any, Final, TypeVar

T = TypeVar("T")


def beside(call: Callable[[], T], name: str) -> Future[T]:
    """Have `call` made in a daemon thread: whoever waits for its answer may stop waiting, and no exit waits for it."""
    answer: Future[T] = Future()
    answer.set_running_or_notify_cancel()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return answer


async def aside(call: Callable[[], T], name: str) -> T:
    """Return the answer of `call`, made in a daemon thread: a driver that hangs stops neither the loop nor an exit."""
    import asyncio  # not at the top: programs without a loop send looks, and it takes 40 ms to import

    return await asyncio.wrap_future(beside(call, name))


@dataclass(frozen=True)
class Look:
    """One look: what is called, and the seconds after which it is left behind."""

    call: Callable[[], Any]
    seconds: float


@dataclass(frozen=True)
class Hanging:
    """Stands in the place of an answer that did not come in time."""

    words: str


@dataclass(frozen=True)
class _Sent:
    answer: Future[Any]
    at: float
    seconds: float

    @property
    def is_left_behind(self) -> bool:
        return not self.answer.done() and time.monotonic() - self.at > self.seconds


class Lookout:
    """Sends looks, all at once, and remembers those that hang."""

    def __init__(self) -> None:
        self._sent: dict[str, _Sent] = {}
        self._lock = threading.Lock()

    def send(self, looks: Mapping[str, Look]) -> dict[str, Any]:
        """Return each look's answer by its name, or `Hanging`; takes as long as the slowest, its limit at most.

        Raises:
            BaseException: what a look raised.
        """
        sent = {name: self._send(name, look) for name, look in looks.items()}
        return {name: _answer(*one) for name, one in sent.items()}

    def _send(self, name: str, look: Look) -> tuple[_Sent, bool]:
        """Return what was sent, and whether that was now and not before."""
        with self._lock:
            before = self._sent.get(name)
            if before is not None and before.is_left_behind:
                return before, False
            sent = self._sent[name] = _Sent(beside(look.call, name), time.monotonic(), look.seconds)
            return sent, True


def _answer(sent: _Sent, now: bool) -> Any:
    try:
        return sent.answer.result(max(0.0, sent.at + sent.seconds - time.monotonic()))
    except NotYet:
        if sent.answer.done():
            return sent.answer.result()
    if now:
        return Hanging(f"did not answer within {sent.seconds:g} s")
    return Hanging(f"has not answered for {time.monotonic() - sent.at:.0f} s")


LOOKOUT: Final = Lookout()
"""The lookout of this process."""

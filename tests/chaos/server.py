"""The Prefect server of a chaos: it can be killed and stopped, and its counts be read and edited as a person would."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from threading import RLock
from typing import Any

import httpx
from tests.support.prefect_server import PrefectServer


class BreakableServer(PrefectServer):
    """A server.

    Attributes:
        steady: Whoever has it finds the server running, and nobody breaks it meanwhile.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.steady = RLock()

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def send(self, number: int) -> None:
        """Send a signal to the server and every process it started."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """End it as a lack of memory does."""
        self.send(signal.SIGKILL)
        self.stop()

    # Its counts

    def counts(self) -> dict[str, int]:
        """Return the active slots of all limits and mirrors, at one moment."""
        page = self.ask("POST", "filter", {"offset": 0, "limit": 200}).json()
        assert len(page) < 200, "the counts of one moment fit one page"
        return {limit["name"]: limit["active_slots"] for limit in page}

    def edit(self, name: str, slots: int) -> None:
        """Set a count outright, which erases what was taken and given back since anybody looked."""
        self.ask("PATCH", name, {"active_slots": slots})

    def take(self, name: str, slots: int) -> bool:
        """Take slots as stock Prefect does, without a lease; tell whether there were any."""
        body = {"names": [name], "slots": slots, "mode": "concurrency"}
        return self.ask("POST", "increment", body, refused=(422, 423)).status_code == 200

    def give_back(self, name: str, slots: int) -> None:
        """Give back what `take` took, or take off what somebody added by hand."""
        self.ask("POST", "decrement", {"names": [name], "slots": slots})

    def ask(self, method: str, path: str, body: dict[str, Any], refused: Iterable[int] = ()) -> httpx.Response:
        """Return the answer to one request; an SQLite database that was busy has changed nothing, and is asked again.

        PostgreSQL's may have changed something: then nobody knows what is whose, and the chaos is void.

        Raises:
            httpx.HTTPError: for any other answer.
        """
        deadline = time.monotonic() + 60
        while True:
            answer = httpx.request(method, f"{self.url}/v2/concurrency_limits/{path}", json=body, timeout=60)
            if answer.status_code != 503 or self._extra or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        if answer.status_code not in refused:
            answer.raise_for_status()
        return answer

"""Where benchmarks that need a server play: a real Prefect server, limits on it, machines registered with it."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
from tests.support.boxes import Box
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer

from benchmarks.case import Run
from benchmarks.crew import clock

_CONFIG = """
[settings]
worker = "{name}"
[gpus]
detect = false
[host]
cpus = 1
mem = "1GiB"
"""

# Prefect's client sends the events of a release after it, and its server writes them to the same database.
_SETTLE_SECONDS = 0.3
# Prefect's answer when SQLite is busy with something else; nothing was changed then.
_BUSY = 503


class Stage:
    """A server, and what is on it.

    Attributes:
        url: The address that machines and workers are told.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self._folder = folder
        self._http = httpx.Client(base_url=url, timeout=60)
        self._numbers = count()

    def go_through(self, url: str) -> None:
        """Let machines and processes that are made from now on use the server at another address."""
        self.url = url
        use(url)

    def machine(self, declared: str) -> Box:
        """Register a machine with the resources that `declared` says in TOML, and no others but a core and memory."""
        folder = self._folder / f"machine-{next(self._numbers)}"
        folder.mkdir()
        box = Box(folder, self.url, _CONFIG + declared)
        box.register()
        return box

    def limit(self, slots: int = 1) -> str:
        """Make a limit of a new name."""
        name = f"stock-{uuid.uuid4().hex[:8]}"
        self._post("", {"name": name, "limit": slots, "active": True})
        return name

    def seed(self, name: str, seconds: float) -> None:
        """Let past holders of a free limit seem to have held it for `seconds`, by which Prefect tells when to retry."""
        slots = self._http.get(f"/v2/concurrency_limits/{name}").json()["limit"]
        # Each sample replaces 1/(2 * slots) of the average.
        for _ in range(16 * slots):
            self._post("decrement", {"names": [name], "slots": 1, "occupancy_seconds": seconds})

    def settle(self) -> None:
        """Wait until nothing is held on the server and what was just released has been dealt with."""
        until(lambda: not self._active(), 400, what="a server on which nothing is held")
        time.sleep(_SETTLE_SECONDS)

    def _active(self) -> list[str]:
        found: list[str] = []
        offset = 0
        while True:
            page = self._http.post("/v2/concurrency_limits/filter", json={"offset": offset, "limit": 200}).json()
            found += [limit["name"] for limit in page if limit["active_slots"]]
            offset += len(page)
            if len(page) < 200:
                return found

    def round_trips(self, name: str, number: int, idle: float = 0.0) -> list[float]:
        """Return the seconds that each of several increments of a free limit takes on a connection kept alive.

        Args:
            name: The limit.
            number: How many.
            idle: Seconds without a request before each: what has not run for a while runs slower.
        """
        times: list[float] = []
        while len(times) < number:
            time.sleep(idle)
            body = {"names": [name], "slots": 1, "mode": "concurrency", "lease_duration": 60}
            began = clock()
            answer = self._http.post("/v2/concurrency_limits/increment-with-lease", json=body)
            took = clock() - began
            if answer.status_code != _BUSY:
                times.append(took)
                self._post("decrement-with-lease", {"lease_id": answer.raise_for_status().json()["lease_id"]})
        return times

    def _post(self, what: str, body: dict[str, Any]) -> None:
        answer = self._http.post(f"/v2/concurrency_limits/{what}", json=body)
        while answer.status_code == _BUSY:
            answer = self._http.post(f"/v2/concurrency_limits/{what}", json=body)
        answer.raise_for_status()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


@contextmanager
def staged(run: Run) -> Generator[Stage]:
    """Start a server in a folder of its own; every process that is started inside uses it."""
    with tempfile.TemporaryDirectory(prefix="prefect-slots-bench-") as place, started(run, Path(place)) as server:
        use(server.url)
        stage = Stage(Path(place), server.url)
        try:
            yield stage
        finally:
            stage.close()


@contextmanager
def started(run: Run, folder: Path) -> Generator[PrefectServer]:
    """Start a server, and stop it."""
    home = folder / "server"
    home.mkdir()
    server = PrefectServer(home)
    run.step("starting a Prefect server")
    try:
        server.start()
        yield server
    finally:
        server.stop()


def use(url: str) -> None:
    """Let processes that are started from now on use the API at `url`."""
    os.environ["PREFECT_API_URL"] = url


def names(box: Box, resources: Sequence[str]) -> list[str]:
    """Return the limits of a machine's declared resources."""
    return [f"{resource}:{box.name}" for resource in resources]


def in_order(box: Box) -> Callable[[int], None]:
    """Return what waits until so many wait on a machine."""
    return lambda waiting: until(lambda: box.rows("ticket") >= waiting, what=f"{waiting} waiting")

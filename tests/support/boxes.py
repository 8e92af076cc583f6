"""A machine of its own for a test: a state folder, a configuration, a name, and a look at ledger and server."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import textwrap
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
from tests.support.polling import until
from tests.support.prefect_server import send

from prefect_slots.acquire.registration import register_everywhere, register_here
from prefect_slots.cli.machine import open_ledger
from prefect_slots.settings import load_settings

CONFIG = """
[settings]
worker = "{name}"
[gpus]
detect = false
[[gpus.card]]
uuid = "GPU-a-{name}"
memory = "24GiB"
[[gpus.card]]
uuid = "GPU-b-{name}"
memory = "24GiB"
[host]
cpus = 2
mem = "8GiB"
[license.matlab-{name}]
seats = 2
[license.ansys-{name}]
seats = 3
scope = "worker"
[resources.scanner]
capacity = 1
"""


class Box:
    """One machine.

    Args:
        folder: An empty folder.
        url: The Prefect API's address, or `None` for a machine without a server.
        config: Text of its `prefect-slots.toml`; `{name}` is its name.
    """

    def __init__(self, folder: Path, url: str | None, config: str = CONFIG) -> None:
        self.name = f"m{uuid.uuid4().hex[:8]}"
        self.url = url
        self.state = folder / "state"
        self.config = folder / "prefect-slots.toml"
        self.config.write_text(config.replace("{name}", self.name))
        self.env = {
            "PREFECT_SLOTS_STATE_DIR": str(self.state),
            # Another test, running now, may have GPUs of the same names.
            "PREFECT_SLOTS_MEETING_DIR": str(self.state.with_name("meeting")),
            "PREFECT_SLOTS_CONFIG": str(self.config),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "DO_NOT_TRACK": "1",
            **({"PREFECT_API_URL": url} if url else {}),
        }

    @property
    def matlab(self) -> str:
        """The fleet-scope licence, named so that tests on one server do not share it."""
        return f"matlab-{self.name}"

    def register(self) -> None:
        """Register it, as `prefect-slots register` does."""
        settings = load_settings(env=self.env)
        ledger = open_ledger(settings)
        with closing(ledger):
            if self.url is None:
                asyncio.run(register_here(ledger, settings))
            else:
                asyncio.run(register_everywhere(ledger, settings, url=self.url))

    def start(self, script: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a Python program of its own on this machine; its standard output is a pipe."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "WORKER_ID"))} | self.env
        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), *arguments],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def run(self, script: str, *arguments: str, seconds: float = 60.0) -> str:
        """Run a program to its end and return what it printed.

        Raises:
            AssertionError: if it fails.
        """
        process = self.start(script, *arguments)
        out, error = process.communicate(timeout=seconds)
        assert process.returncode == 0, error[-4000:]
        return out

    def send(self, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
        """Send a write to the machine's server as a stranger would, and return the answer."""
        assert self.url is not None
        return send(self.url, method, path, body)

    def active(self) -> dict[str, int]:
        """Return the server's active slots of this machine's limits and mirrors that are above zero."""
        assert self.url is not None
        found: dict[str, int] = {}
        offset = 0
        while True:
            page = httpx.post(
                f"{self.url}/v2/concurrency_limits/filter", json={"offset": offset, "limit": 200}, timeout=30
            ).json()
            found.update({limit["name"]: limit["active_slots"] for limit in page if self.name in limit["name"]})
            if len(page) < 200:
                return {name: slots for name, slots in found.items() if slots}
            offset += 200

    def limits(self) -> dict[str, int]:
        """Return the active slots without the mirrors."""
        return {name: slots for name, slots in self.active().items() if not name.startswith("tag:")}

    def rows(self, table: str) -> int:
        """Return how many rows a table of the ledger has."""
        with closing(sqlite3.connect(self.state / "ledger.sqlite3")) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def run_sql(self, sql: str) -> list[tuple[Any, ...]]:
        """Read rows of the ledger past the code under test."""
        with closing(sqlite3.connect(self.state / "ledger.sqlite3", timeout=20)) as connection:
            return connection.execute(sql).fetchall()

    def in_use(self) -> dict[str, int]:
        """Return the tables of the ledger that still hold something of a request."""
        counts = {name: self.rows(name) for name in ("ticket", "held", "holding", "refusal", "lease", "shape")}
        return {name: count for name, count in counts.items() if count}

    def dump(self) -> dict[str, list[list[Any]]]:
        """Return what the ledger still holds, for messages."""
        with closing(sqlite3.connect(self.state / "ledger.sqlite3")) as connection:
            tables = ("owner", "ticket", "held", "lease", "refusal")
            return {t: [list(row) for row in connection.execute(f"SELECT * FROM {t}")] for t in tables}

    def assert_nothing_is_left(self, seconds: float = 20.0) -> None:
        """Wait until neither the ledger nor the server holds anything of this machine."""
        try:
            until(lambda: not self.in_use(), seconds, what=f"an empty ledger of {self.name}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(self.dump(), indent=1)}") from None
        if self.url is not None:
            try:
                until(lambda: not self.active(), seconds, what=f"zero active slots of {self.name}")
            except AssertionError as error:
                raise AssertionError(f"{error}\n{json.dumps(self.active(), indent=1)}") from None


def line(process: subprocess.Popen[str]) -> Any:
    """Return the next line that a program prints, as JSON."""
    assert process.stdout is not None
    text = process.stdout.readline()
    if not text:
        error = process.stderr.read() if process.stderr else ""
        raise AssertionError(f"the program ended with {process.wait()}:\n{error[-4000:]}")
    return json.loads(text)


def tell(process: subprocess.Popen[str], text: str = "") -> None:
    """Write a line to a program's standard input."""
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()

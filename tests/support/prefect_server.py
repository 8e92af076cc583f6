"""A real Prefect server for tests: its own process, home folder, SQLite file and port."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient
from tests.support.polling import until

# What no test here needs, so that the server starts soon and leaves its database alone. The service that takes
# lapsed leases back is not among them.
_NOT_NEEDED = (
    "CANCELLATION_CLEANUP", "EVENT_LOGGER", "FOREMAN", "LATE_RUNS", "PAUSE_EXPIRATIONS", "SCHEDULER", "TRIGGERS",
)  # fmt: skip


class PrefectServer:
    """One server; `start` returns when it answers, `stop` when its process has ended.

    Args:
        home: An empty folder for its database, log and leases.
        extra: Further environment variables for the server.

    Attributes:
        url: The API's address, once started.
        env: What a client process needs in its environment to use this server and nothing of the user's.
    """

    def __init__(self, home: Path, extra: dict[str, str] | None = None) -> None:
        self._home = home
        self._extra = extra or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}/api"
        self.env = {"PREFECT_HOME": str(home), "PREFECT_API_URL": self.url, "DO_NOT_TRACK": "1"}

    def start(self, seconds: float = 100.0) -> None:
        """Start, or start again on the same port and database after `stop`."""
        settings = {
            "PREFECT_HOME": str(self._home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _NOT_NEEDED},
            **self._extra,
        }
        env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")} | settings
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self._port)]
        with (self._home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        until(self._answers, seconds, what=f"the server of {self._home}")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server ended:\n{self.log()[-3000:]}"
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def stop(self) -> None:
        """Stop the server and every process it started; a second call does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    @contextmanager
    def suspended(self) -> Generator[None]:
        """Let the server's process do nothing for as long as the block lasts; its connections stay open."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def log(self) -> str:
        """Return what the server has printed."""
        return (self._home / "server.log").read_text(errors="replace")

    def grow_old(self, words: str, seconds: float) -> None:
        """Set the last changes of Variables and limits whose names hold `words` so much earlier, in the database."""
        with closing(sqlite3.connect(self._home / "prefect.db", timeout=60)) as database:
            for table in ("variable", "concurrency_limit_v2"):
                database.execute(
                    f"UPDATE {table} SET updated = strftime('%Y-%m-%d %H:%M:%f', updated, ?) || '000' "
                    "WHERE instr(replace(lower(name), '.', '-'), ?)",
                    (f"-{seconds} seconds", words.lower().replace(".", "-")),
                )
            database.commit()

    def forget_claims(self) -> None:
        """Delete every claim of a machine, so that later tests may have GPUs of the same names."""
        filter = {"variables": {"name": {"like_": "prefect-slots-"}}}
        for found in httpx.post(f"{self.url}/variables/filter", json=filter, timeout=30).json():
            send(self.url, "DELETE", f"variables/name/{found['name']}", {})

    def client(self) -> PrefectClient:
        """Return a plain client of Prefect's own, to look at the server with; use it as `async with`."""
        return PrefectClient(self.url)


def send(url: str, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
    """Send a write to a server as a stranger would, again while its SQLite file is locked, and return the answer.

    Raises:
        httpx.HTTPStatusError: if it answers with another error.
    """
    answers: list[httpx.Response] = []

    def answered() -> bool:
        answers.append(httpx.request(method, f"{url}/{path}", json=body, timeout=30))
        return answers[-1].status_code != 503

    until(answered, 60, what=f"an answer to {method} {path}")
    return answers[-1].raise_for_status()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

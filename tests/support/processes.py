"""Real processes on one ledger: a machine to share, children that do as they are told, and what they leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.polling import until

from prefect_slots.ledger.folder import open_folder
from prefect_slots.ledger.owner import Owner
from prefect_slots.ledger.schema import FILE
from prefect_slots.ledger.store import Ledger
from prefect_slots.ledger.wakeup import WakeSocket
from prefect_slots.scheduling.decide import decide

ROOT = Path(__file__).parents[2]
TRACES = ("ticket", "shape", "held", "holding", "refusal", "lease", "serving", "owner")
CONFIG = """
[settings]
worker = "shared"
[gpus]
detect = false
[[gpus.card]]
uuid = "GPU-test-0"
memory = "24GiB"
name = "Test card"
[[gpus.card]]
uuid = "GPU-test-1"
memory = "24GiB"
name = "Test card"
[host]
cpus = 8
mem = "16GiB"
[license.matlab]
seats = 2
[license.ansys]
seats = 3
scope = "worker"
[resources.scanner]
capacity = 1
"""


class SharedMachine:
    """A machine without a server: its state folder, and the environment of the processes on it."""

    def __init__(self, folder: Path, config: str = CONFIG, **settings: str) -> None:
        self.state = folder / "state"
        config_file = folder / "prefect-slots.toml"
        config_file.write_text(config)
        self.settings = {
            "PREFECT_SLOTS_STATE_DIR": str(self.state),
            # Another test, running now, may have GPUs of the same names.
            "PREFECT_SLOTS_MEETING_DIR": str(self.state.with_name("meeting")),
            "PREFECT_SLOTS_CONFIG": str(config_file),
            "PREFECT_SLOTS_COORDINATION": "local",
            **{f"PREFECT_SLOTS_{name.upper()}": value for name, value in settings.items()},
        }

    @property
    def env(self) -> dict[str, str]:
        """A whole environment for a child process."""
        return {**os.environ, **self.settings}

    def all(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Read rows past the code under test."""
        file = f"{(self.state / FILE).as_uri()}?mode=rw"
        with closing(sqlite3.connect(file, timeout=20, uri=True)) as connection:
            return connection.execute(sql, values).fetchall()

    def count(self, table: str) -> int:
        """Return how many rows a table has; none where no process has come yet."""
        try:
            return self.all(f"SELECT COUNT(*) FROM {table}")[0][0]
        except sqlite3.OperationalError as error:
            if "unable to open" in str(error) or "no such table" in str(error):
                return 0
            raise

    def traces(self) -> dict[str, int]:
        """Return the tables that still say somebody waits or holds, with their numbers of rows."""
        counts = {table: self.count(table) for table in TRACES}
        return {table: rows for table, rows in counts.items() if rows}

    def waiting(self, tickets: int) -> None:
        """Wait until exactly that many tickets wait."""
        until(lambda: self.count("ticket") == tickets, what=f"{tickets} waiting")

    def until_empty(self, *, but: tuple[str, ...] = ()) -> None:
        """Wait until nothing is left of anybody, `but` for those tables."""
        until(lambda: not self.traces().keys() - set(but), what="an empty ledger")

    def reap(self) -> None:
        """Clear up after the dead, as every process does when it comes."""
        with member(self.state) as (ledger, _):
            for dead in ledger.read(lambda tx: tx.dead_owners()):
                ledger.transact(lambda tx, dead=dead: tx.drop_owner(dead))


@contextmanager
def member(state: Path, max_overtakes: int = 20) -> Generator[tuple[Ledger, Owner]]:
    """Take part in a ledger as one more owner, with nothing between the test and it."""
    folder = open_folder(state)
    owner = Owner.start(folder)
    ledger = Ledger(folder, partial(decide, max_overtakes=max_overtakes), owner.id)
    socket = WakeSocket(folder, owner.id)
    ledger.transact(lambda tx: tx.enrol(owner, socket.address))
    try:
        yield ledger, owner
    finally:
        with contextlib.suppress(Exception):
            ledger.transact(lambda tx: tx.drop_owner(owner.id))
        ledger.close()
        socket.close()
        owner.end(folder)


class Puppet:
    """A process that acquires and releases when told to; see `tests.support.puppet`.

    Args:
        around: A command that runs it, such as `unshare`.
    """

    def __init__(self, machine: SharedMachine, *around: str, **env: str) -> None:
        self.process = subprocess.Popen(
            [*around, sys.executable, "-m", "tests.support.puppet"],
            cwd=ROOT,
            env={**machine.env, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._replies: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Puppet:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None and kind is None:
            self.end()
        else:
            self.kill()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._replies.put(json.loads(line))

    def tell(self, **command: Any) -> None:
        """Give a command and do not wait for the reply."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def reply(self, seconds: float = 30) -> dict[str, Any]:
        """Return the next reply."""
        return self._replies.get(timeout=seconds)

    @property
    def silent(self) -> bool:
        """Whether no reply has come that was not taken."""
        return self._replies.empty()

    def ask(self, **needs: Any) -> None:
        """Begin to acquire; `reply` tells when it is granted."""
        self.tell(do="enter", needs=needs)

    def enter(self, **needs: Any) -> dict[str, Any]:
        """Acquire and return the reply."""
        self.ask(**needs)
        return self.reply()

    def leave(self) -> None:
        """Give back what was acquired last."""
        self.tell(do="leave")
        assert self.reply() == {"left": True}

    def end(self) -> int:
        """Let it end as a program does that has no more to do; return its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self._gone()

    def kill(self) -> None:
        """Kill it as nothing can be caught."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self._gone()

    def _gone(self) -> int:
        code = self.process.wait(30)
        self._reader.join(10)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        return code


def run_python(machine: SharedMachine, code: str, *, seconds: float = 60, **env: str) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        AssertionError: with all its output, if it failed.
    """
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        cwd=ROOT,
        env={**machine.env, **env},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout

"""One process of `pool_peers` and all that it starts: told what to do, its memory read, seen gone.

What it has started is known by a variable of its environment, which a daemon that has left its parent keeps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

_MARK = "POOL_BENCHMARK"
ENDING_SECONDS = 10.0


class Session:
    """A started pool in a process of its own.

    Attributes:
        startup: Seconds from before its first import to its first result.
        pid: Its own process.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._mark = uuid.uuid4().hex
        self._command = command
        self._log = log
        self._seen: set[psutil.Process] = set()
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **env, _MARK: self._mark},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.pid = self._process.pid
        try:
            self.startup = float(self._reply())
        except BaseException:
            self.end()
            raise

    def ask(self, what: str, number: int) -> Any:
        """Have it do something, and return what came of it.

        Raises:
            RuntimeError: if it failed.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {number}\n")
        self._process.stdin.flush()
        return json.loads(self._reply())

    def _reply(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._command} failed:\n{self._log.read_text()[-3000:]}")
        return line

    def processes(self) -> set[psutil.Process]:
        """Return its process and all that it has started that live, wherever they are now."""
        # What titles itself writes over its environment, and is then known as a child only, or from before.
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark:
                    self._seen.update([process, *process.children(recursive=True)])
        self._seen = {process for process in self._seen if _lives(process)}
        return self._seen

    def memory(self) -> int:
        """Return the bytes of all of them, what several share divided among those (PSS)."""
        return sum(_pss(process) for process in self.processes())

    def end(self) -> None:
        """Let it end, and kill what has not ended in time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.processes()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_SECONDS)
        until = time.monotonic() + ENDING_SECONDS
        while left := self.processes():
            if time.monotonic() > until:
                for process in left:
                    with suppress(psutil.Error):
                        process.kill()
            time.sleep(0.02)
        self._process.wait()
        self._process.stdout.close()


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _pss(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return process.memory_full_info().pss
    return 0


@contextmanager
def session(peer: str, env: Mapping[str, str], log: Path) -> Generator[Session]:
    """Start a pool, and see all of it gone."""
    started = Session([sys.executable, "-m", "benchmarks.pool_peers", peer], env, log)
    try:
        yield started
    finally:
        started.end()

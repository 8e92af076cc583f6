"""The demo's stage: a temporary folder, and processes that know nothing of the user's Prefect.

A signal is only noted, and acted on between two steps, so that none can fall between the start of a process and its
entry in the list. The demo's processes, and all that they start, are recognized by the folder in their environment.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil

from prefect_slots.errors import SlotsError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MARK = "PREFECT_SLOTS_STATE_DIR"
# Longest wait for processes to end by themselves: a viewer has pressed Ctrl-C and wants the terminal back.
_GRACE_SECONDS = 3.0
# Enough for the end of a traceback with its message, and still not a whole screen.
_LOG_LINES = 15
# Services of the server that nothing here needs: it starts sooner, and leaves the two cores to the flow runs.
_NOT_NEEDED = (
    "CANCELLATION_CLEANUP", "EVENT_LOGGER", "FOREMAN", "LATE_RUNS", "PAUSE_EXPIRATIONS", "SCHEDULER", "TRIGGERS",
)  # fmt: skip


class Stopped(Exception):
    """A signal has asked the demo to end; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class DemoFailed(SlotsError):
    """A process or a package that the demo needs has failed; `log` is the end of its output."""

    what: str
    log: str = ""

    def __str__(self) -> str:
        return f"{self.what}\n\n{self.log}" if self.log else self.what


class Stage:
    """A folder and its processes; a context manager.

    Attributes:
        folder: Folder of everything that is written; gone afterwards.
        url: Address of the private server's API.
        env: Environment of every process here.
    """

    def __init__(self) -> None:
        self.folder = Path()
        self.url = ""
        self.env: dict[str, str] = {}
        self._signal: int | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """Note signals from now on, then make the folder."""
        self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}
        self.folder = Path(tempfile.mkdtemp(prefix="prefect-slots-demo-")).resolve()
        for part in ("home", "state", "tmp"):
            (self.folder / part).mkdir(mode=0o700)
        self.url = f"http://127.0.0.1:{_free_port()}/api"
        self.env = clean_env(self.folder, self.url)
        return self

    def __exit__(self, *_: object) -> None:
        """End every process of ours, remove the folder, then let signals do again what they did."""
        # The order matters: a process that still ran would write into the folder while it is removed.
        try:
            end_processes(self.folder)
            for process in self._running.values():
                process.wait()
            shutil.rmtree(self.folder)
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    # A handler that raised could leave a process running that no list names.
    def _note(self, number: int, _: object) -> None:
        self._signal = number

    def start(self, name: str, *command: str) -> None:
        """Start a Python module in the folder, its output in `<name>.log`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C at the terminal reaches the demo alone, which ends its processes in order.
                start_new_session=True,
            )

    def finish(self, name: str, seconds: float = 60.0) -> None:
        """Wait until a command has ended well.

        Raises:
            DemoFailed: if it ended badly or not in time.
        """
        process = self._running[name]
        self.until(lambda: process.poll() is not None, seconds, f"`{name}` did not end")
        del self._running[name]
        if process.returncode != 0:
            raise DemoFailed(f"`{name}` failed with exit code {process.returncode}", self.log(name))

    def until(self, condition: Callable[[], bool], seconds: float, failure: str, *, log: str = "") -> None:
        """Wait for a condition.

        Raises:
            DemoFailed: with the end of that log, after `seconds`.
            Stopped: as `rest`.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise DemoFailed(f"{failure} within {seconds:g} s", self.log(log) if log else "")
            self.rest(0.1)

    def rest(self, seconds: float) -> None:
        """Wait a moment.

        Raises:
            Stopped: if a signal came.
            DemoFailed: if the server or the worker has ended.
        """
        if self._signal is not None:
            raise Stopped(self._signal)
        for name in ("server", "worker"):
            process = self._running.get(name)
            if process is not None and process.poll() is not None:
                raise DemoFailed(f"the {name} ended with exit code {process.returncode}", self.log(name))
        time.sleep(seconds)

    def log(self, name: str) -> str:
        """Return the last lines that a process printed."""
        path = self.folder / f"{name}.log"
        text = path.read_text(errors="replace") if path.exists() else ""
        return "\n".join([line for line in text.splitlines() if line.strip()][-_LOG_LINES:])


def clean_env(folder: Path, url: str) -> dict[str, str]:
    """Return the demo's environment: this process's own without the variables of the user's Prefect.

    An empty `CUDA_VISIBLE_DEVICES` is left out too: it hides all real GPUs, and would hide the cards that stand in.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "WORKER_ID"))}
    if not kept.get("CUDA_VISIBLE_DEVICES"):
        kept.pop("CUDA_VISIBLE_DEVICES", None)
    return {
        **kept,
        _MARK: str(folder / "state"),
        "PREFECT_SLOTS_CONFIG": str(folder / "demo.toml"),
        "PREFECT_HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _NOT_NEEDED},
        "PREFECT_WORKER_QUERY_SECONDS": "0.5",
        "PREFECT_LOGGING_COLORS": "false",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
        "TMPDIR": str(folder / "tmp"),
        # A proxy would look for the server on its own machine.
        "NO_PROXY": ",".join(filter(None, ["127.0.0.1", os.environ.get("NO_PROXY", "")])),
        # Eight flow runs with a thread pool each would only get in each other's way.
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }


def end_processes(folder: Path) -> None:
    """End every process whose environment names `folder`, and those that these start meanwhile."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while ours := processes_of(folder):
        # Asked first, so that Prefect's processes can end in order, and then killed.
        kind = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
        for process in ours:
            # A process may end, and be reaped by its parent, while the list is read.
            with suppress(psutil.NoSuchProcess):
                process.send_signal(kind)
        psutil.wait_procs(ours, timeout=max(0.2, deadline - time.monotonic()))


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes whose environment names `folder`."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            # The environment of another user's process cannot be read, and is none of ours.
            if process.pid != os.getpid() and process.environ().get(_MARK) == str(folder / "state"):
                found.append(process)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""Runs of vendors' programs: without a shell, within a time limit, and with nothing left behind.

A program runs in a process group of its own, which is killed at the end of every run: license tools fork, hang, and
ignore SIGTERM. Their output until then is kept.
"""

import atexit
import codecs
import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

# A program is stopped after so many bytes: the license tools of the largest sites print some ten million.
MAX_OUTPUT = 64 * 2**20
# The capacity of a pipe.
_CHUNK = 2**16
# A program that ends while a child of it holds its output open is noticed this late.
_LOOK_SECONDS = 0.05
# A killed process is gone in milliseconds, unless it waits for a dead file server.
_GONE_SECONDS = 1.0
# At the end of this process a program that is just being started is waited for: it would be left behind. A start takes
# milliseconds; this limit is for one that hangs on a dead file server.
_LAST_START_SECONDS = 5.0
# Programs that run now, each with the process that started it.
_running: dict[int, int] = {}
_starting = threading.Lock()
_ending = threading.Event()


@dataclass(frozen=True, kw_only=True)
class Output:
    """The output of a program, and its end.

    Attributes:
        text: Both streams, errors last. It may name people, so no `repr` shows it.
        code: The exit status, or minus the number of the signal that ended it; `None` if it was stopped or never
            started.
        failure: Reason why it was stopped or never started; `None` if it ended by itself.
    """

    text: str = field(default="", repr=False)
    code: int | None = None
    failure: str | None = None


def run_command(
    argv: Sequence[str], *, env: Mapping[str, str], timeout: float, stdin: str = "", limit: int = MAX_OUTPUT
) -> Output:
    """Run a program to its end, or to the end of its time. Never raises because of the program.

    Args:
        argv: The program and its arguments.
        env: Its environment; messages in English are added.
        timeout: Seconds from its start after which it is killed.
        stdin: Its whole input.
        limit: Bytes of output after which it is killed.

    Raises:
        SystemExit: in a daemon thread whose process ends meanwhile; the program was killed for that.
    """
    try:
        process = _start(argv, {**env, "LANG": "C", "LC_ALL": "C"})
    except OSError as error:
        return Output(failure=_not_started(argv[0], error, env))
    except ValueError as error:
        return Output(failure=f"'{argv[0]}' cannot be started: {error}")
    run = _Run(process, stdin.encode(), limit)
    try:
        failure = run.follow(time.monotonic() + timeout, timeout)
    finally:
        _running.pop(process.pid, None)
        code = run.end()
    if _ending.is_set():
        # The end of this process is no failure of the program: written down, it would be believed by other processes.
        raise SystemExit
    return Output(text=run.text(), code=code if failure is None else None, failure=failure)


def decode(data: bytes) -> str:
    """Return the text of a program or a file; a line that is not UTF-8 is read as Latin-1, which knows every byte."""
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "\n".join(map(_decode_line, data.split(b"\n")))


def _decode_line(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _start(argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with _starting:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
        _running[process.pid] = os.getpid()
        return process


@atexit.register
def _end_all() -> None:
    # Their threads are daemons and end with this process, before they end the programs. A forked child has the list of
    # its parent, whose programs are not its own.
    _ending.set()
    _starting.acquire(timeout=_LAST_START_SECONDS)
    for program, starter in list(_running.items()):
        if starter == os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(program, signal.SIGKILL)


def _after_fork() -> None:
    # Another thread of the parent may have held the lock, and no thread of the child would release it.
    global _starting, _ending
    _starting = threading.Lock()
    _ending = threading.Event()


os.register_at_fork(after_in_child=_after_fork)


def _not_started(program: str, error: OSError, env: Mapping[str, str]) -> str:
    if isinstance(error, FileNotFoundError):
        found = program if os.sep in program else shutil.which(program, path=env.get("PATH"))
        if found and Path(found).exists():
            # The kernel says "no such file" of a program whose loader is missing.
            return (
                f"'{program}' exists but what runs it does not: FlexNet's tools need the loader of the "
                "Linux Standard Base (package lsb-core, lsb or redhat-lsb-core), a script its interpreter"
            )
        return f"there is no program '{program}': install it, or name its path with command"
    return f"'{program}' cannot be started: {error.strerror}"


class _Run:
    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes, limit: int) -> None:
        self._process = process
        self._left = stdin
        self._room = limit
        self._streams: dict[int, tuple[IO[bytes], list[bytes]]] = {}
        self._selector = selectors.DefaultSelector()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            self._streams[stream.fileno()] = stream, []
            self._selector.register(stream, selectors.EVENT_READ)
        assert process.stdin is not None
        self._stdin = process.stdin
        os.set_blocking(self._stdin.fileno(), False)
        self._selector.register(self._stdin, selectors.EVENT_WRITE)

    def follow(self, deadline: float, timeout: float) -> str | None:
        """Feed and read the program until it ends; return the reason if it is left before."""
        while self._selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return f"did not answer within {timeout:g} s"
            ended = self._has_ended()
            ready = self._selector.select(0 if ended else min(left, _LOOK_SECONDS))
            if ended and not any(key.fileobj is not self._stdin for key, _ in ready):
                # A child of it may hold its output open forever.
                return None
            for key, _ in ready:
                self._serve(key.fd)
            if self._room < 0:
                return "printed more than it could have to tell"
        return self._wait(deadline, timeout)

    def _wait(self, deadline: float, timeout: float) -> str | None:
        """Wait for a program that has closed its output."""
        while not self._has_ended():
            if time.monotonic() > deadline:
                return f"did not end within {timeout:g} s"
            time.sleep(_LOOK_SECONDS)
        return None

    def _serve(self, descriptor: int) -> None:
        if descriptor not in self._streams:
            self._write()
            return
        stream, chunks = self._streams[descriptor]
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(descriptor, _CHUNK)
            self._room -= len(chunk)
            chunks.append(chunk)
            if not chunk:
                self._selector.unregister(stream)

    def _write(self) -> None:
        try:
            self._left = self._left[os.write(self._stdin.fileno(), self._left[:_CHUNK]) :] if self._left else b""
        except BlockingIOError:
            return
        except OSError:
            # It does not read its input; its output may be complete all the same.
            self._left = b""
        if not self._left:
            self._selector.unregister(self._stdin)
            self._close(self._stdin)

    def _has_ended(self) -> bool:
        # The exit status is left in place: until it is taken no other process gets the same number, nor its group's.
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def end(self) -> int | None:
        """Kill the rest of the group, close everything, and return the exit status."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._selector.close()
        for stream, _ in self._streams.values():
            self._close(stream)
        self._close(self._stdin)
        try:
            return self._process.wait(_GONE_SECONDS)
        except subprocess.TimeoutExpired:
            # A process that waits for a dead file server cannot be killed.
            return None

    def _close(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError):
            stream.close()

    def text(self) -> str:
        """Return its output, errors last."""
        parts = [decode(b"".join(chunks)) for _, chunks in self._streams.values()]
        return "\n".join(part for part in parts if part)

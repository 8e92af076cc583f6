"""What processes use of the host's memory.

What is mapped from files is left out: the kernel takes it back when memory gets short. Of each process there are two
answers. What it has resident costs microseconds, and counts a page again for every process that shares it; its share
of those pages costs as many milliseconds as it has hundreds of MiB.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_RESIDENT: Final = re.compile(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)
_SHARE: Final = re.compile(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)
_KIB: Final = 1024
ROOT: Final = Path("/")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_SAME_MOMENT_SECONDS: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Running:
    """A process of this machine: its parent, 0 for none, and when it was started, a Unix time."""

    parent: int
    started: float


def query_running(root: Path = ROOT) -> dict[int, Running]:
    """Return this machine's processes, as far as they may be seen, by id."""
    found = dict(_read_running(root) if psutil.LINUX else _ask_running())
    return {pid: _with_true_parent(running, found) for pid, running in found.items()}


def _read_running(root: Path) -> Iterator[tuple[int, Running]]:
    # All of them every few seconds: psutil takes five times as long for each.
    booted = psutil.boot_time()
    for folder in (root / "proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError, ValueError, IndexError):
                yield int(folder.name), parse_stat((folder / "stat").read_text(errors="replace"), booted)


def _ask_running() -> Iterator[tuple[int, Running]]:
    for process in psutil.process_iter(["ppid", "create_time"]):
        yield process.pid, Running(parent=process.info["ppid"] or 0, started=process.info["create_time"] or 0.0)


def parse_stat(text: str, booted: float) -> Running:
    """Read `/proc/PID/stat`; a program may be called anything, with spaces and brackets too.

    Raises:
        ValueError, IndexError: for text of another shape.
    """
    fields = text[text.rindex(")") + 2 :].split()
    return Running(parent=int(fields[1]), started=booted + int(fields[19]) / _TICKS)


def _with_true_parent(running: Running, others: dict[int, Running]) -> Running:
    """Leave out a parent that was started later: while the list was read its number passed to somebody else."""
    parent = others.get(running.parent)
    later = parent is not None and parent.started > running.started + _SAME_MOMENT_SECONDS
    return Running(parent=0, started=running.started) if later else running


def query_resident(pid: int) -> int | None:
    """Return the bytes that a process has resident; 0 if it has ended, `None` if it cannot be read."""
    return _query(pid, "status", parse_resident, lambda process: process.memory_info().rss)


def query_share(pid: int) -> int | None:
    """Return the bytes of its share of what it has resident; 0 if it has ended, `None` if that is not told."""
    return _query(pid, "smaps_rollup", parse_share, lambda process: process.memory_full_info().uss)


def _query(
    pid: int, file: str, parse: Callable[[str], int | None], else_ask: Callable[[psutil.Process], int]
) -> int | None:
    try:
        if psutil.LINUX:
            told = parse((Path("/proc") / str(pid) / file).read_text())
            if told is not None:
                return told
        return else_ask(psutil.Process(pid))
    except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
        return 0
    except (OSError, psutil.Error):
        return None


def parse_resident(text: str) -> int | None:
    """Read `/proc/PID/status`; `None` where it does not tell it apart."""
    return _sum(_RESIDENT, text)


def parse_share(text: str) -> int | None:
    """Read `/proc/PID/smaps_rollup`; `None` where it does not tell it apart."""
    return _sum(_SHARE, text)


def _sum(line: re.Pattern[str], text: str) -> int | None:
    told = [int(amount) * _KIB for amount in line.findall(text)]
    return sum(told) if told else None

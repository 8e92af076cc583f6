"""What an ended task has left in its process, and who killed one: read from `/proc` and the cgroup.

A grant that is given back must leave nothing behind on the cards: a framework keeps device memory for its next call,
and whoever is granted that memory would find it taken.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_DEVICES: Final = ("/dev/nvidia", "/dev/kfd", "/dev/dri/", "/dev/accel", "/dev/vfio/")
_KEPT_BYTES: Final = 256 * 2**20
_ROOT: Final = Path("/")


def holds_device(pid: int, root: Path = _ROOT) -> bool:
    """Tell whether a process has a device's file open, as everything does that has touched CUDA."""
    try:
        return any(_target(file).startswith(_DEVICES) for file in (root / "proc" / str(pid) / "fd").iterdir())
    except OSError:
        return False


def _target(file: Path) -> str:
    try:
        return str(file.readlink())
    except OSError:
        return ""  # closed meanwhile


def holds_memory(pid: int, root: Path = _ROOT) -> bool:
    """Tell whether a process keeps more than some memory of its own to itself."""
    try:
        fields = (root / "proc" / str(pid) / "statm").read_text().split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") > _KEPT_BYTES
    except (OSError, ValueError, IndexError):
        return False


def oom_kills(root: Path = _ROOT) -> int:
    """Return how many processes the kernel has killed for want of memory, in this process's cgroup if it tells.

    That the number has risen when a task's process was killed is a best guess at why: another process of the cgroup
    may have been the one.
    """
    from prefect_slots.detect.host import ancestors, parse_membership

    try:
        path = parse_membership((root / "proc/self/cgroup").read_text()).unified
    except (OSError, ValueError):
        path = None
    for folder in ancestors(root / "sys/fs/cgroup", path) if path is not None else ():
        counted = _counter(folder / "memory.events")
        if counted is not None:
            return counted
    return _counter(root / "proc/vmstat") or 0


def _counter(file: Path) -> int | None:
    try:
        for line in file.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        return None
    return None

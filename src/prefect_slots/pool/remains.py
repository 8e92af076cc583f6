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

"""Who keeps the ledger from being written, where the kernel tells: the process in the middle of a transaction."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import psutil

_WRITE_LOCK: Final = 120
"""The byte of SQLite's shared-memory file that a writer has locked (https://sqlite.org/walformat.html)."""


def parse_locks(text: str, device: tuple[int, int], inode: int) -> int | None:
    """Return the process that has SQLite's write lock on that file, from the text of `/proc/locks`."""
    for line in text.splitlines():
        fields = line.split()
        # 12: POSIX  ADVISORY  WRITE 4242 fd:01:131079 120 120; a line with "->" only waits.
        if len(fields) != 8 or fields[1] != "POSIX" or fields[3] != "WRITE":
            continue
        major, minor, number = fields[5].split(":")
        if (int(major, 16), int(minor, 16), int(number)) != (*device, inode) or fields[7] == "EOF":
            continue
        if int(fields[6]) <= _WRITE_LOCK <= int(fields[7]):
            return int(fields[4])
    return None


def locker(ledger: Path) -> str | None:
    """Return who is writing the ledger at this moment, for people; `None` where that cannot be told."""
    # The file is not opened: to close it again would drop the locks that SQLite has on it in this process.
    try:
        status = ledger.with_name(f"{ledger.name}-shm").stat()
        device = (os.major(status.st_dev), os.minor(status.st_dev))
        pid = parse_locks(Path("/proc/locks").read_text(), device, status.st_ino)
        if pid is None:
            return None
        process = psutil.Process(pid)
        return f"process {pid} ({process.status()}: {' '.join(process.cmdline())[:80]})"
    except (OSError, ValueError, psutil.Error):
        return None

"""Whose turn it is to ask a licence server, among all processes of a user on this machine: a lock on a file for each.

The kernel takes the lock from whoever is killed. Where no file can be locked each process asks on its own, because a
server that is asked twice at a time is better than one that is not asked at all.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def shared_folder() -> Path:
    """Return the folder of the locks: one for all of a user's processes, whatever environment each was given."""
    return Path(f"/var/tmp/prefect-slots-{os.getuid()}/licences")


@contextmanager
def in_turn(folder: Path | None, server: str, seconds: float) -> Generator[bool]:
    """Keep the user's other processes from asking a server meanwhile; yield whether it may be asked.

    It may not if others have asked it for all those seconds. They are being kept waiting by it, as each gives it up
    after its own limit: another query would only add to what it cannot bear, and what was known last stands.

    Args:
        folder: Where the locks are; `None` for no lock at all.
        server: The vendor and the server's name.
        seconds: How long to wait.
    """
    with ExitStack() as turn:
        is_mine = True
        if folder is not None:
            try:
                turn.enter_context(_lock(folder, server).acquire(seconds))
            except Timeout:
                is_mine = False
            except (OSError, NotImplementedError):
                pass
        yield is_mine


def _lock(folder: Path, server: str) -> FileLock:
    for made in (folder.parent, folder):
        made.mkdir(mode=0o700, exist_ok=True)
        # Where everybody may write, anybody may have made it: a lock in theirs would be theirs to keep.
        status = made.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise PermissionError(f"{made} is somebody else's")
    name = hashlib.sha256(server.encode()).hexdigest()[:32]
    # A lock that is only a file's being there would outlive whoever is killed.
    return FileLock(folder / f"{name}.lock", fallback_to_soft=False)

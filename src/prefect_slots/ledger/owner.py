"""A process proven alive by the lock it holds.

The kernel drops the lock at death, however the process dies. A lock file that exists and is not locked proves a death;
a missing file does not, since a cleaner of temporary files may have removed it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from filelock import FileLock

from prefect_slots.system import clock, processes

# Columns of the table `owner o` that prove an owner's death, in the order of `is_dead`.
PROOF = "o.lock_file, o.pid, o.started, o.boot, o.namespace, o.command, o.command_started"


@dataclass(frozen=True)
class Owner:
    """This process as the ledger knows it.

    Attributes:
        id: New at each start.
        namespace: Pid namespace in which `pid` is its number.
        lock_file: Name in the ledger's `owners` folder.
        descriptor: The locked file; a child that inherits it keeps the owner alive.
    """

    id: str
    pid: int
    started: float
    boot: str
    namespace: str
    lock_file: str
    program: str
    descriptor: int
    _lock: FileLock = field(repr=False)

    @classmethod
    def start(cls, folder: Path) -> Owner:
        """Lock a new file in `folder`/owners. Call it before the ledger hears of the owner."""
        # New at each start: a file that was locked before may be inherited by a child that still lives.
        owner_id = uuid.uuid4().hex
        path = folder / "owners" / f"{owner_id}.lock"
        # `run` hands the descriptor to its command, which keeps the grant if the wrapper is killed.
        descriptors: list[int] = []
        lock = FileLock(
            path, timeout=0, thread_local=False, fallback_to_soft=False, on_acquired=descriptors.append, mode=0o660
        )
        lock.acquire()
        pid = os.getpid()
        return cls(
            id=owner_id,
            pid=pid,
            started=psutil.Process(pid).create_time(),
            boot=clock.boot_id(),
            namespace=processes.pid_namespace(),
            lock_file=path.name,
            program=" ".join(sys.argv)[:200] or sys.executable,
            descriptor=descriptors[0],
            _lock=lock,
        )

    def end(self, folder: Path, *, forgotten: bool = True) -> None:
        """Unlock; the file stays unless the ledger has `forgotten` this owner: unlocked, it proves an end."""
        # A row that is still there needs the unlocked file: it is the proof of death for the next process.
        if forgotten:
            bury(folder, self.id)
        self._lock.release(force=True)


def bury(folder: Path, owner: str) -> None:
    """Remove the files of an owner that the ledger has forgotten."""
    for path in (folder / "owners" / f"{owner}.lock", folder / "wake" / owner):
        with contextlib.suppress(OSError):
            path.unlink()


def is_dead(
    folder: Path,
    lock_file: str,
    pid: int,
    started: float,
    boot: str,
    namespace: str,
    command: int | None = None,
    command_started: float | None = None,
) -> bool:
    """Return whether an owner is proven dead: by its lock, or because it and the one command that it ran have ended."""
    try:
        descriptor = os.open(folder / "owners" / lock_file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        # A cleaner of temporary files may have removed it: only the process itself can tell, and from another pid
        # namespace it cannot be asked.
        return boot != clock.boot_id() or (
            namespace == processes.pid_namespace() and not processes.is_running(pid, started)
        )
    except OSError:
        # Without a proof an owner lives: its cells would be granted twice.
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # Agents that a command leaves behind inherit the lock, and would keep its grant for days.
        return (
            command is not None
            and command_started is not None
            and namespace == processes.pid_namespace()
            and processes.has_ended(pid, started)
            and processes.has_ended(command, command_started)
        )
    else:
        return True
    finally:
        os.close(descriptor)

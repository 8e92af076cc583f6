"""The processes of this machine: their table and lineage, the one test of identity, and what each of them uses.

Of a process's memory there are two figures, both without pages mapped from files, which the kernel takes back when
memory gets short. The resident memory costs microseconds to read and counts a shared page in every process; the
share costs as many milliseconds as the process has hundreds of MiB.
"""

import os
import pwd
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from prefect_slots.system.sysfs import ROOT, text_of

# Start times are the boot time, which the kernel tells in whole seconds, and the ticks since. A clock that is set by a
# fraction of a second between two readings moves the boot time by one second. No number passes to another process that
# soon: all other numbers, tens of thousands, have their turn first.
_SAME_START_SECONDS = 1.5

# The kernel gives its first pid namespace this number, on every machine since 3.8.
_FIRST_NAMESPACE = "pid:[4026531836]"
# A machine has far fewer processes with a seat at a time.
_MAX_USERS = 1000
# The kernel cuts a program's name at this length.
_KERNEL_NAME = 15
_TICKS = os.sysconf("SC_CLK_TCK")
_RESIDENT = re.compile(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)
_SHARE = re.compile(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class ProcessInfo:
    """A row of the process table.

    Attributes:
        parent: The parent's id, 0 for none.
        started: The start, a Unix time in seconds.
        name: The program's name; the kernel's own table has its first 15 bytes only.
    """

    parent: int
    started: float
    name: str


def query_table(root: Path = ROOT) -> dict[int, ProcessInfo]:
    """Return this machine's processes by id, without those that may not be seen."""
    if not psutil.LINUX:
        return _table(psutil.pids(), _ask)
    booted = psutil.boot_time()
    pids = [int(folder.name) for folder in (root / "proc").iterdir() if folder.name.isdecimal()]
    # Read every few seconds: psutil takes five times as long for each process.
    return _table(pids, lambda pid: parse_stat((root / f"proc/{pid}/stat").read_text(errors="replace"), booted))


def query_lineage(pids: Iterable[int]) -> dict[int, ProcessInfo]:
    """Return these processes and their ancestors by id, without those that may not be seen; names are whole."""
    if not psutil.LINUX:
        return _table(pids, _ask, ancestors=True)
    booted = psutil.boot_time()

    def read(pid: int) -> ProcessInfo:
        # Before a grant, too: psutil takes five times as long for each process.
        info = parse_stat(Path(f"/proc/{pid}/stat").read_text(errors="replace"), booted)
        return replace(info, name=psutil.Process(pid).name()) if len(info.name) >= _KERNEL_NAME else info

    return _table(pids, read, ancestors=True)


def _table(
    pids: Iterable[int], read: Callable[[int], ProcessInfo], *, ancestors: bool = False
) -> dict[int, ProcessInfo]:
    found: dict[int, ProcessInfo] = {}
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            # A process may end while it is read.
            with suppress(OSError, ValueError, IndexError, psutil.Error):
                found[pid] = read(pid)
                waiting += [found[pid].parent] if ancestors else []
    for pid, info in found.items():
        parent = found.get(info.parent)
        if parent is not None and parent.started > info.started and not same_start(parent.started, info.started):
            # While the table was read the parent ended and its number passed to another process.
            found[pid] = replace(info, parent=0)
    return found


def _ask(pid: int) -> ProcessInfo:
    process = psutil.Process(pid)
    return ProcessInfo(parent=process.ppid() or 0, started=process.create_time(), name=process.name())


def parse_stat(text: str, booted: float) -> ProcessInfo:
    """Read `/proc/PID/stat`; a program's name may hold spaces and brackets.

    Raises:
        ValueError, IndexError: for text of another shape.
    """
    before, _, after = text.rpartition(")")
    fields = after.split()
    name = before[before.index("(") + 1 :]
    return ProcessInfo(parent=int(fields[1]), started=booted + int(fields[19]) / _TICKS, name=name)


def same_start(one: float, other: float) -> bool:
    """Return whether two readings of a start time, at other moments or by other processes, may be of one start."""
    return abs(one - other) < _SAME_START_SECONDS


def has_ended(pid: int, started: float) -> bool:
    """Return whether that very process is proven to have ended, reaped or not."""
    try:
        process = psutil.Process(pid)
        # The first thread may end before the others: the process is then shown as a zombie, and goes on.
        is_zombie = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
        return is_zombie or not same_start(process.create_time(), started)
    except psutil.Error as error:
        return isinstance(error, psutil.NoSuchProcess)


def is_running(pid: int, started: float, table: Mapping[int, ProcessInfo] | None = None) -> bool:
    """Return whether that very process runs, and not another one with its number.

    Args:
        pid: The process id.
        started: The start as it was noted, a Unix time in seconds.
        table: The processes to look among; by default the kernel is asked, and a process that it hides counts as
            running.
    """
    if table is not None:
        return pid in table and same_start(table[pid].started, started)
    try:
        return same_start(psutil.Process(pid).create_time(), started)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def descendants(roots: Iterable[int], table: Mapping[int, ProcessInfo]) -> frozenset[int]:
    """Return the given process ids and those of all their descendants."""
    children: dict[int, list[int]] = {}
    for pid, info in table.items():
        children.setdefault(info.parent, []).append(pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return frozenset(found)


def named(names: Collection[str], table: Mapping[int, ProcessInfo]) -> frozenset[int]:
    """Return the ids of the processes with one of these program names: a desktop's own, for example."""
    return frozenset(pid for pid, info in table.items() if info.name in names)


def query_variable(name: str, pids: Iterable[int]) -> dict[int, str]:
    """Return the value of an environment variable by process id, of those that have it and may be read."""
    found: dict[int, str] = {}
    for pid in pids:
        with suppress(psutil.Error):
            if value := _environment(pid).get(name):
                found[pid] = value
    return found


def _environment(pid: int) -> Mapping[str, str]:
    if not psutil.LINUX:
        return psutil.Process(pid).environ()
    # Of many processes every few seconds: psutil takes five times as long for each.
    entries = (entry.partition("=") for entry in text_of(Path(f"/proc/{pid}/environ")).split("\0"))
    return {key: value for key, _, value in entries}


def has_own_pids(root: Path = ROOT) -> bool:
    """Return whether process ids here are others than the host's, as in most containers, or may be."""
    try:
        return str((root / "proc/self/ns/pid").readlink()) != _FIRST_NAMESPACE
    except OSError:
        return True


def user_name(uid: int) -> str:
    """Return the name of a user, and the number as text if there is none: containers run as users without an entry."""
    with suppress(KeyError, OSError):
        return pwd.getpwuid(uid).pw_name
    own = (os.environ.get(key) for key in ("LOGNAME", "USER") if uid == os.getuid())
    return next(filter(None, own), str(uid))


def pid_namespace() -> str:
    """Return the pid namespace of this process: ids of another one are not looked up, compared or signalled.

    Where ids of this process's own namespace cannot be looked up, the name is a new one at each call and equals none.
    """
    if not psutil.LINUX:
        return "host"
    with suppress(OSError):
        # A namespace that was given its parent's `/proc` finds other processes there under its own numbers.
        if str(Path("/proc/self").readlink()) == str(os.getpid()):
            return str(Path("/proc/self/ns/pid").readlink())
    return uuid.uuid4().hex


class Users:
    """User names of processes, kept for a while after their end; they are compared, and never logged or written."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, key: str, pid: int) -> str:
        """Return the user of the process known under `key`; this process's own if it has ended and none is kept."""
        with suppress(OSError):
            self._names[key] = user_name(Path(f"/proc/{pid}").stat().st_uid)
        while len(self._names) > _MAX_USERS:
            del self._names[next(iter(self._names))]
        return self._names.get(key) or user_name(os.getuid())


def query_resident(pid: int) -> int | None:
    """Return a process's resident memory in bytes; 0 if it has ended, `None` if it cannot be read."""
    return _query(pid, "status", parse_resident, lambda process: process.memory_info().rss)


def query_share(pid: int) -> int | None:
    """Return a process's share of its resident memory in bytes; 0 if it has ended, `None` if that is not told."""
    return _query(pid, "smaps_rollup", parse_share, lambda process: process.memory_full_info().uss)


def _query(
    pid: int, file: str, parse: Callable[[str], int | None], else_ask: Callable[[psutil.Process], int]
) -> int | None:
    try:
        if psutil.LINUX:
            told = parse(Path(f"/proc/{pid}/{file}").read_text())
            if told is not None:
                return told
        return else_ask(psutil.Process(pid))
    except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
        return 0
    except (OSError, psutil.Error):
        return None


def parse_resident(text: str) -> int | None:
    """Read `/proc/PID/status`, in bytes; `None` where it does not tell pages mapped from files apart."""
    return _sum(_RESIDENT, text)


def parse_share(text: str) -> int | None:
    """Read `/proc/PID/smaps_rollup`, in bytes; `None` where it does not tell pages mapped from files apart."""
    return _sum(_SHARE, text)


def _sum(line: re.Pattern[str], text: str) -> int | None:
    told = [int(kib) * 1024 for kib in line.findall(text)]
    return sum(told) if told else None


def parse_locks(text: str, device: tuple[int, int], inode: int, byte: int) -> int | None:
    """Return the process that has that byte of a file locked for writing, by the text of `/proc/locks`."""
    for line in text.splitlines():
        fields = line.split()
        # 12: POSIX  ADVISORY  WRITE 4242 fd:01:131079 120 120; a line with "->" only waits.
        if len(fields) != 8 or fields[1] != "POSIX" or fields[3] != "WRITE":
            continue
        major, minor, number = fields[5].split(":")
        if (int(major, 16), int(minor, 16), int(number)) != (*device, inode) or fields[7] == "EOF":
            continue
        if int(fields[6]) <= byte <= int(fields[7]):
            return int(fields[4])
    return None


def query_locker(file: Path, byte: int) -> str | None:
    """Describe the process that has that byte of a file locked for writing; `None` where that cannot be told."""
    # The file is not opened: to close it again would drop the locks that this process has on it.
    try:
        status = file.stat()
        device = (os.major(status.st_dev), os.minor(status.st_dev))
        pid = parse_locks(text_of(Path("/proc/locks")), device, status.st_ino, byte)
        if pid is None:
            return None
        process = psutil.Process(pid)
        return f"process {pid} ({process.status()}: {' '.join(process.cmdline())[:80]})"
    except (OSError, ValueError, psutil.Error):
        return None

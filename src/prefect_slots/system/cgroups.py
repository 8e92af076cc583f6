"""The cgroups of this process: its limits of memory and cores, and its count of kills for want of memory.

The folder that stands for `/` is an argument, so that made-up trees can be read. A missing file means no limit; a file
that cannot be read or understood raises: a guessed limit would over-commit the machine.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from prefect_slots.system.sysfs import ROOT, text_of


@dataclass(frozen=True, kw_only=True)
class Membership:
    """The cgroups of a process.

    Attributes:
        unified: Its path in the v2 tree, `None` where there is none.
        controllers: For each v1 controller, the controllers mounted together with it (`"cpu,cpuacct"`) and its path
            in their tree.
    """

    unified: str | None = None
    controllers: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])


def parse_membership(text: str) -> Membership:
    """Read `/proc/self/cgroup`: lines of `id:controllers:path`; id 0 without controllers is v2.

    Raises:
        ValueError: for a line of another shape.
    """
    unified: str | None = None
    controllers: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        # A path may hold colons, too.
        parts = line.split(":", 2)
        if len(parts) != 3:
            raise ValueError(f"/proc/self/cgroup holds a line that is not id:controllers:path: {line!r}")
        if parts[1] == "":
            unified = parts[2]
        else:
            # Controllers that are mounted together share a line and a tree.
            controllers.update(dict.fromkeys(parts[1].split(","), (parts[1], parts[2])))
    return Membership(unified=unified, controllers=controllers)


def parse_bytes(text: str) -> int | None:
    """Read a memory limit in bytes; `None` is no limit (`max` in v2).

    Raises:
        ValueError: for any other text.
    """
    word = text.strip()
    return None if word == "max" else int(word)


def parse_cpu_max(text: str) -> int | None:
    """Read v2's `cpu.max` (`quota period`, in microseconds) as whole cores, at least 1; `None` is no limit.

    Raises:
        ValueError: for text of another shape.
    """
    quota, _, period = text.strip().partition(" ")
    return None if quota == "max" else max(1, int(quota) // _positive(period))


def parse_cfs_quota(quota: str, period: str) -> int | None:
    """Read v1's `cpu.cfs_quota_us` and `cpu.cfs_period_us` as whole cores, at least 1; `None` is no limit (-1).

    Raises:
        ValueError: for text that is no number.
    """
    microseconds = int(quota)
    return None if microseconds < 0 else max(1, microseconds // _positive(period))


def _positive(period: str) -> int:
    if (value := int(period)) <= 0:
        raise ValueError(f"a period of {value} microseconds")
    return value


def ancestors(mount: Path, path: str) -> Iterator[Path]:
    """Yield the folders of a cgroup and of all above it, up to the mount.

    A container may see its own cgroup at the mount while `path` is the host's, or goes up from it with `..`: folders
    that do not exist are the caller's to skip, and the mount itself always comes last.
    """
    # Inside a container `path` may lead out of the mount: `/../../docker/x`.
    inside = PurePosixPath(*[part for part in PurePosixPath(path).parts if part not in ("/", "..")])
    for folder in (inside, *inside.parents):
        yield mount / folder


def _read(path: Path) -> str | None:
    # Not `text_of`: a limit that exists and cannot be read must not be taken for no limit.
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _membership(root: Path) -> Membership:
    return parse_membership(_read(root / "proc/self/cgroup") or "")


def _folders(root: Path, membership: Membership, controller: str) -> Iterator[tuple[Path, int]]:
    """Yield the cgroup folders that may limit `controller`, each with its cgroup version."""
    mounts = root / "sys/fs/cgroup"
    if membership.unified is not None:
        yield from ((folder, 2) for folder in ancestors(mounts, membership.unified))
    if controller in membership.controllers:
        together, path = membership.controllers[controller]
        # `cpu` may be mounted alone, or as `cpu,cpuacct` with a link from its own name.
        for mount in {controller, together}:
            yield from ((folder, 1) for folder in ancestors(mounts / mount, path))


def memory_limit(root: Path = ROOT) -> int | None:
    """Return the smallest memory limit in bytes of this process's cgroups; `None` where there is none.

    Raises:
        OSError: for a limit that exists and cannot be read.
        ValueError: for one that cannot be understood.
    """
    names = {2: "memory.max", 1: "memory.limit_in_bytes"}
    folders = _folders(root, _membership(root), "memory")
    texts = (_read(folder / names[version]) for folder, version in folders)
    limits = (parse_bytes(text) for text in texts if text is not None)
    return min((limit for limit in limits if limit is not None), default=None)


def core_limit(root: Path = ROOT) -> int | None:
    """Return the smallest CPU quota of this process's cgroups in whole cores; `None` where there is none.

    Raises:
        OSError: for a quota that exists and cannot be read.
        ValueError: for one that cannot be understood.
    """
    limits: list[int | None] = []
    for folder, version in _folders(root, _membership(root), "cpu"):
        if version == 2:
            text = _read(folder / "cpu.max")
            limits.append(None if text is None else parse_cpu_max(text))
        else:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
            limits.append(None if quota is None or period is None else parse_cfs_quota(quota, period))
    return min((limit for limit in limits if limit is not None), default=None)


def oom_kills(root: Path = ROOT) -> int:
    """Return the number of processes that the kernel has killed for want of memory in this process's cgroup.

    The nearest cgroup that counts them is read, else the whole host's count. A count that rises when a process is
    killed is only a best guess at the reason: the kernel may have killed another process of the cgroup.
    """
    try:
        path = _membership(root).unified
    except (OSError, ValueError):
        path = None
    for folder in ancestors(root / "sys/fs/cgroup", path) if path is not None else ():
        if (counted := _oom_count(folder / "memory.events")) is not None:
            return counted
    return _oom_count(root / "proc/vmstat") or 0


def _oom_count(file: Path) -> int | None:
    found = re.search(r"^oom_kill ([0-9]+)$", text_of(file), re.MULTILINE)
    return int(found[1]) if found is not None else None

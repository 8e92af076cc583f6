"""Cores and memory of this host, as affinity and cgroups leave them to this process.

The folder that stands for `/` is an argument of everything that reads `/proc` and `/sys`, so that made-up trees can be
read. A missing file means no limit; a file that cannot be read or understood raises: guessing would over-commit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final

import psutil

from prefect_slots.detect.answer import Answer, Sight
from prefect_slots.model.amount import CORES, MIB, bytes_available, format_amount
from prefect_slots.model.declaration import HostRules
from prefect_slots.model.resource import CPUS, MEM, Cell, Finding, Resource

ROOT: Final = Path("/")


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
        parts = line.split(":", 2)
        if len(parts) != 3:
            raise ValueError(f"/proc/self/cgroup holds a line that is not id:controllers:path: {line!r}")
        if parts[1] == "":
            unified = parts[2]
        else:
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
    inside = PurePosixPath(*[part for part in PurePosixPath(path).parts if part not in ("/", "..")])
    for folder in (inside, *inside.parents):
        yield mount / folder


def _read(path: Path) -> str | None:
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


def query_memory(root: Path = ROOT) -> int:
    """Return the MiB that this process and its children may use: the host's, or its cgroups' smallest limit.

    Raises:
        OSError, ValueError: as `memory_limit`.
    """
    total, limit = psutil.virtual_memory().total, memory_limit(root)
    return bytes_available(total if limit is None else min(total, limit))


def query_cores(root: Path = ROOT) -> int:
    """Return the cores that this process may use: its affinity, or its cgroups' smallest quota; at least 1.

    Raises:
        OSError, ValueError: as `core_limit`.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = core_limit(root)
    return affinity if limit is None else min(affinity, limit)


def interpret_host(rules: HostRules, source: str, cores: Callable[[], int], memory_mib: Callable[[], int]) -> Answer:
    """Judge what the host offers as `cpus` and `mem`. What is declared wins over what is detected.

    Args:
        rules: The `[host]` table.
        source: The file that holds it, for `origin`.
        cores: Gives the detected number of cores; may raise `OSError` or `ValueError`.
        memory_mib: Gives the detected memory in MiB; may raise the same.
    """
    answers = (
        _judge(CPUS, CORES, rules.cpus, cores, 0, source),
        _judge(MEM, MIB, rules.mem_mib, memory_mib, rules.mem_headroom_mib, source),
    )
    return Answer(
        resources=tuple(resource for answer in answers for resource in answer.resources),
        findings=tuple(finding for answer in answers for finding in answer.findings),
        unknown=frozenset(name for answer in answers for name in answer.unknown),
        sights=tuple(sight for answer in answers for sight in answer.sights),
    )


def _judge(name: str, unit: str, declared: int | None, detect: Callable[[], int], kept: int, source: str) -> Answer:
    detected: int | None = None
    findings: list[Finding] = []
    try:
        detected = detect()
    except (OSError, ValueError) as error:
        remedy = f"set {name} under [host] in prefect-slots.toml" if declared is None else ""
        severity = "error" if declared is None else "info"
        findings.append(Finding(subject=name, problem=f"cannot be detected: {error}", remedy=remedy, severity=severity))
    capacity = detected if declared is None else declared
    why = f"less {format_amount(kept, unit)} headroom" if kept else ""
    sight = Sight(resource=name, key="0", unit=unit, found=detected, declared=declared, why=why)
    if capacity is None:
        return Answer(findings=tuple(findings), unknown=frozenset({name}))
    if detected is not None and capacity > detected:
        findings.append(
            Finding(
                subject=name,
                problem=f"declared {format_amount(capacity, unit)}, "
                f"but this process may use {format_amount(detected, unit)}",
                remedy=f'lower {name} under [host], or write {name} = "auto"',
            )
        )
    if capacity <= kept:
        problem = f"headroom {format_amount(kept, unit)} leaves nothing of {format_amount(capacity, unit)}"
        findings.append(
            Finding(subject=name, problem=problem, remedy="lower mem_headroom under [host]", severity="error")
        )
        return Answer(findings=tuple(findings), sights=(sight,))
    cell = Cell(key="0", capacity=capacity - kept)
    origin = "host" if declared is None else source
    resource = Resource(name=name, unit=unit, cells=(cell,), origin=origin)
    sights = (replace(sight, offered=cell.capacity),)
    return Answer(resources=(resource,), findings=tuple(findings), sights=sights)

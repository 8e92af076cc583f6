"""Cores and memory of this host, as affinity and cgroups leave them to this process.

The folder that stands for `/` is an argument of everything that reads `/proc` and `/sys`, so that made-up trees can be
read. A missing file means no limit; a file that cannot be read or understood raises: guessing would over-commit.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil

from prefect_slots.detect.detector import Answer, Scene, Sight, single
from prefect_slots.model import CORES, CPUS, MEM, MIB, Finding, HostRules, bytes_available, format_amount
from prefect_slots.system.cgroups import core_limit, memory_limit
from prefect_slots.system.sysfs import ROOT


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


@dataclass(frozen=True)
class HostDetector:
    """Detector of `cpus` and `mem`, with the `[host]` table and the file that holds it."""

    rules: HostRules
    source: str
    resources = frozenset({CPUS, MEM})

    def detect(self, scene: Scene) -> Answer:
        """Return cores and memory, declared or within the limits of this process."""
        return interpret_host(
            self.rules, self.source, partial(query_cores, scene.root), partial(query_memory, scene.root)
        )


def interpret_host(rules: HostRules, source: str, cores: Callable[[], int], memory_mib: Callable[[], int]) -> Answer:
    """Return the host's offer of `cpus` and `mem`. A declared amount wins over the detected one.

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
    sight = Sight(resource=name, unit=unit, found=detected, declared=declared, why=why)
    if capacity is None:
        return Answer(findings=tuple(findings), unknown=frozenset({name}))
    if detected is not None and capacity > detected:
        problem = f"declared {format_amount(capacity, unit)}, but this process may use {format_amount(detected, unit)}"
        remedy = f'lower {name} under [host], or write {name} = "auto"'
        findings.append(Finding(subject=name, problem=problem, remedy=remedy))
    if capacity <= kept:
        problem = f"headroom {format_amount(kept, unit)} leaves nothing of {format_amount(capacity, unit)}"
        remedy = "lower mem_headroom under [host]"
        findings.append(Finding(subject=name, problem=problem, remedy=remedy, severity="error"))
        return single(sight, source, findings)
    return single(replace(sight, offered=capacity - kept), "host" if declared is None else source, findings)

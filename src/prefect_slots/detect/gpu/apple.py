"""Apple's built-in GPU by sysctl: one GPU that shares the host's memory, of which it may keep a part.

Nothing here runs anywhere but on a Mac with a processor of Apple's.
"""

import json
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from prefect_slots.detect.detector import Answer, Scene, Sight
from prefect_slots.model.amount import MIB, bytes_available, format_amount
from prefect_slots.model.declaration import GpuRules
from prefect_slots.model.finding import Finding
from prefect_slots.model.gpu import APPLE_KEY
from prefect_slots.model.resource import GPU_MEM, Cell, Resource
from prefect_slots.system.commands import run_command

# `system_profiler` takes seconds on a Mac with many devices; without it only the name is lost.
_SECONDS: Final = 10.0
_LINE: Final = re.compile(r"([a-z_.]+)\s*[:=]\s*([0-9]+)")
# macOS lets its GPU keep two thirds of a small Mac's memory, and three quarters from this size on.
_LARGE_MIB: Final = 36 * 1024


@dataclass(frozen=True, kw_only=True)
class AppleReading:
    """A reading of macOS.

    Attributes:
        memory: Bytes of the machine; `None` where not even that is told.
        limit_mib: MiB that a person allows the GPU to keep; 0 if macOS decides.
    """

    memory: int | None
    limit_mib: int = 0
    name: str = ""


class AppleDetector:
    """Detector of the GPU of a Mac, as a cell of `gpu_mem`."""

    resources = frozenset({GPU_MEM})

    def detect(self, scene: Scene) -> Answer:
        """Ask macOS, if this is a Mac with a processor of Apple's."""
        if sys.platform != "darwin" or platform.machine() != "arm64":
            return Answer()
        return interpret_apple(query_apple(scene.env), scene.gpus)


def query_apple(env: Mapping[str, str]) -> AppleReading:
    """Ask for the memory, the GPU's limit of it, and the GPU's name."""
    # Not in every service's search path.
    env = {**env, "PATH": f"{env.get('PATH', '')}:/usr/sbin:/usr/bin"}
    numbers = run_command(("/usr/bin/env", "sysctl", "hw.memsize", "iogpu.wired_limit_mb"), env=env, timeout=_SECONDS)
    name = run_command(("/usr/bin/env", "system_profiler", "SPDisplaysDataType", "-json"), env=env, timeout=_SECONDS)
    memory, limit = parse_sysctl(numbers.text)
    return AppleReading(memory=memory, limit_mib=limit, name=parse_displays(name.text))


def parse_sysctl(text: str) -> tuple[int | None, int]:
    """Return the bytes of memory, and the MiB that the GPU may keep; macOS before 14 does not know the latter."""
    told = {match[1]: int(match[2]) for match in map(_LINE.fullmatch, map(str.strip, text.splitlines())) if match}
    return told.get("hw.memsize") or None, told.get("iogpu.wired_limit_mb", 0)


def parse_displays(text: str) -> str:
    """Return the name of the GPU of which `system_profiler` tells; empty for anything else."""
    try:
        read: Any = json.loads(text)
        return next(str(one["sppci_model"]) for one in read["SPDisplaysDataType"] if "sppci_model" in one)
    except (ValueError, RecursionError, LookupError, TypeError, StopIteration):
        return ""


def interpret_apple(reading: AppleReading, rules: GpuRules) -> Answer:
    """Return the GPU's share of the host's memory as `gpu_mem`."""
    if rules.excludes(APPLE_KEY):
        return Answer()
    name = reading.name or "Apple GPU"
    if reading.memory is None:
        problem = "sysctl does not tell the memory of this Mac"
        finding = Finding(subject=APPLE_KEY, problem=problem, remedy="see `sysctl hw.memsize`", severity="error")
        sight = Sight(resource=GPU_MEM, key=APPLE_KEY, unit=MIB, label=name, why=problem)
        return Answer(unknown_cells=frozenset({APPLE_KEY}), findings=(finding,), sights=(sight,))
    found = bytes_available(reading.memory)
    share = found * 3 // 4 if found >= _LARGE_MIB else found * 2 // 3
    why = "what macOS lets its GPU keep of the host's memory"
    if reading.limit_mib:
        share, why = min(reading.limit_mib, found), "iogpu.wired_limit_mb of the host's memory"
    findings = [
        Finding(
            subject=APPLE_KEY,
            problem="it shares the host's memory: gpu_mem and mem count the same bytes",
            remedy="set [gpus] headroom and [host] mem_headroom so that both fit",
            severity="info" if rules.headroom_mib else "warning",
        )
    ]
    if rules.headroom_mib:
        why += f", less {format_amount(rules.headroom_mib, MIB)} headroom"
    mib = share - rules.headroom_mib
    if mib <= 0:
        kept = format_amount(rules.headroom_mib, MIB)
        problem = f"headroom {kept} leaves nothing of {format_amount(share, MIB)}"
        findings.append(Finding(subject=APPLE_KEY, problem=problem, remedy="lower it"))
    sight = Sight(
        resource=GPU_MEM, key=APPLE_KEY, unit=MIB, label=name, found=found, offered=mib if mib > 0 else None, why=why
    )
    cell = Cell(key=APPLE_KEY, capacity=max(0, mib), label=name, index=0)
    resource = Resource(name=GPU_MEM, unit=MIB, cells=(cell,), origin="sysctl")
    return Answer(resources=(resource,) if mib > 0 else (), findings=tuple(findings), sights=(sight,))

"""Apple's built-in GPU by sysctl: one GPU that shares the host's memory, of which it may keep a part.

Nothing here runs anywhere but on a Mac with a processor of Apple's.
"""

import json
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect_slots.detect.detector import Answer, Scene
from prefect_slots.detect.gpu.offer import GpuOffer
from prefect_slots.model import APPLE_KEY, GPU_MEM, MIB, GpuRules, bytes_available, format_amount
from prefect_slots.system.commands import run_command

# `system_profiler` takes seconds on a Mac with many devices; without it only the name is lost.
_SECONDS = 10.0
_LINE = re.compile(r"([a-z_.]+)\s*[:=]\s*([0-9]+)")
# macOS lets its GPU keep two thirds of a small Mac's memory, and three quarters from this size on.
_LARGE_MIB = 36 * 1024


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
    offer = GpuOffer(rules=rules)
    name = reading.name or "Apple GPU"
    if reading.memory is None:
        offer.fail(APPLE_KEY, name, "sysctl does not tell the memory of this Mac", "see `sysctl hw.memsize`")
        return offer.answer("sysctl")
    found = bytes_available(reading.memory)
    share = found * 3 // 4 if found >= _LARGE_MIB else found * 2 // 3
    why = "what macOS lets its GPU keep of the host's memory"
    if reading.limit_mib:
        share, why = min(reading.limit_mib, found), "iogpu.wired_limit_mb of the host's memory"
    if rules.headroom_mib:
        why += f", less {format_amount(rules.headroom_mib, MIB)} headroom"
    offer.shares_host_memory(APPLE_KEY)
    offer.show(APPLE_KEY, name, why, found=found, offered=offer.less_headroom(share))
    offer.add(APPLE_KEY, name, share, 0)
    return offer.answer("sysctl")

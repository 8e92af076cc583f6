"""Apple's built-in GPU: the words of macOS's programs, and what the GPU may have of the host's memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.system.test_container import put

from prefect_slots.detect.detector import Scene
from prefect_slots.detect.gpu.apple import (
    AppleDetector,
    AppleReading,
    interpret_apple,
    parse_displays,
    parse_sysctl,
    query_apple,
)
from prefect_slots.model.declaration import GpuRules
from prefect_slots.model.gpu import APPLE_KEY

GIB = 2**30
SYSCTL = "hw.memsize: 34359738368\niogpu.wired_limit_mb: 0\n"
OLDER = "hw.memsize: 34359738368\nsysctl: unknown oid 'iogpu.wired_limit_mb'\n"
DISPLAYS = """{
  "SPDisplaysDataType" : [
    {
      "_name" : "Apple M2 Max",
      "spdisplays_mtlgpufamilysupport" : "spdisplays_metal3",
      "spdisplays_vendor" : "sppci_vendor_Apple",
      "sppci_bus" : "spdisplays_builtin",
      "sppci_cores" : "38",
      "sppci_device_type" : "spdisplays_gpu",
      "sppci_model" : "Apple M2 Max"
    }
  ]
}
"""


def offered(reading: AppleReading, rules: GpuRules | None = None) -> dict[str, int]:
    answer = interpret_apple(reading, rules or GpuRules())
    return {cell.key: cell.capacity for resource in answer.resources for cell in resource.cells}


def test_the_words_of_macos_are_read():
    assert parse_sysctl(SYSCTL) == (32 * GIB, 0)
    assert parse_sysctl(OLDER) == (32 * GIB, 0)
    assert parse_sysctl("hw.memsize: 34359738368\niogpu.wired_limit_mb: 26624\n") == (32 * GIB, 26624)
    assert parse_displays(DISPLAYS) == "Apple M2 Max"


@given(st.text())
def test_whatever_they_print_is_read_or_left(text: str):
    memory, limit = parse_sysctl(text)
    assert memory is None or memory > 0
    assert limit >= 0
    assert parse_displays(text) == ""


@pytest.mark.parametrize(
    ("gib", "limit", "mib"),
    [(8, 0, 5461), (32, 0, 21845), (36, 0, 27648), (64, 0, 49152), (32, 26624, 26624), (8, 99999, 8192)],
)
def test_it_offers_what_macos_lets_it_keep(gib: int, limit: int, mib: int):
    assert offered(AppleReading(memory=gib * GIB, limit_mib=limit)) == {APPLE_KEY: mib}


@pytest.mark.parametrize(("headroom", "severity"), [(0, "warning"), (1024, "info")])
def test_that_it_shares_the_hosts_memory_is_told(headroom: int, severity: str):
    answer = interpret_apple(AppleReading(memory=64 * GIB), GpuRules(headroom_mib=headroom))
    assert answer.resources[0].cells[0].capacity == 49152 - headroom
    assert [(f.severity, f.problem) for f in answer.findings] == [
        (severity, "it shares the host's memory: gpu_mem and mem count the same bytes")
    ]


def test_what_is_excluded_or_eaten_up_by_headroom_is_no_cell():
    assert offered(AppleReading(memory=64 * GIB), GpuRules(exclude=("apple",))) == {}
    assert offered(AppleReading(memory=64 * GIB), GpuRules(headroom_mib=49152)) == {}


def test_memory_that_is_not_told_is_unknown():
    answer = interpret_apple(AppleReading(memory=None), GpuRules())
    assert (answer.resources, answer.unknown_cells) == ((), {APPLE_KEY})


def test_its_programs_are_asked_where_they_are(tmp_path: Path):
    for name, text in (("sysctl", SYSCTL), ("system_profiler", DISPLAYS)):
        put(tmp_path, {name: f"#!{sys.executable}\nprint({text!r})\n"})
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": str(tmp_path)}
    assert query_apple(env) == AppleReading(memory=32 * GIB, name="Apple M2 Max")


@pytest.mark.skipif(sys.platform == "darwin", reason="this is a Mac")
def test_elsewhere_there_is_none():
    answer = AppleDetector().detect(Scene())
    assert (answer.resources, answer.findings, answer.unknown) == ((), (), set())

"""Intel's cards: made-up trees of sysfs, the words of `xpu-smi`, and what the cards offer."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.system.test_container import link, put

from prefect_slots.detect.detector import Answer, Scene
from prefect_slots.detect.gpu.intel import (
    Described,
    IntelDetector,
    IntelReading,
    interpret_intel,
    parse_device,
    parse_discovery,
    query_intel,
)
from prefect_slots.model.declaration import GpuRules

GIB = 2**30
ARC = IntelReading(address="0000:03:00.0", driver="i915")
MAX = IntelReading(address="0000:83:00.0", driver="xe", total=128 * GIB)
DISCOVERY = """{
    "device_list": [
        {
            "device_function_type": "physical",
            "device_id": 0,
            "device_name": "Intel(R) Arc(TM) A770 Graphics",
            "device_type": "GPU",
            "drm_device": "/dev/dri/card1",
            "pci_bdf_address": "0000:03:00.0",
            "pci_device_id": "0x56a0",
            "uuid": "00000000-0000-0003-0000-000856a08086",
            "vendor_name": "Intel(R) Corporation"
        }
    ]
}
"""
DEVICE = """{
    "core_clock_rate_mhz": "2400",
    "device_id": 0,
    "device_name": "Intel(R) Arc(TM) A770 Graphics",
    "driver_version": "I915_23.8.20",
    "max_mem_alloc_size_byte": "4294959104",
    "memory_ecc_state": "",
    "memory_free_size_byte": "16032243712",
    "memory_physical_size_byte": "16225243136",
    "number_of_tiles": "1",
    "pci_bdf_address": "0000:03:00.0",
    "vendor_name": "Intel(R) Corporation"
}
"""
TOOL = """#!{python}
import sys
print({device!r} if "-d" in sys.argv else {discovery!r})
"""


def plug(root: Path, number: int, address: str, driver: str, *, vendor: str = "0x8086", **files: str) -> None:
    device, card = root / "sys/devices" / address, root / f"sys/class/drm/card{number}"
    put(device, {"vendor": f"{vendor}\n", **{name.replace("__", "/"): text for name, text in files.items()}})
    link(device / "driver", f"../../../bus/pci/drivers/{driver}")
    link(card / "device", f"../../../devices/{address}")


def cells(answer: Answer) -> dict[str, int]:
    return {cell.key: cell.capacity for resource in answer.resources for cell in resource.cells}


def test_each_driver_tells_memory_in_its_own_place(tmp_path: Path):
    tiles = {f"tile{number}__physical_vram_size_bytes": f"{64 * GIB}\n" for number in (0, 1)}
    plug(tmp_path, 2, MAX.address, "xe", **tiles)
    plug(tmp_path, 1, ARC.address, "i915")
    put(tmp_path / "sys/class/drm/card1", {"lmem_total_bytes": f"{16 * GIB}\n"})
    arc = IntelReading(address=ARC.address, driver="i915", total=16 * GIB)
    assert tuple(query_intel(tmp_path)) == (arc, MAX)
    assert cells(interpret_intel((arc, MAX), {}, GpuRules(headroom_mib=1024), {})) == {
        "INTEL-0000:03:00.0": 15 * 1024,
        "INTEL-0000:83:00.0": 127 * 1024,
    }


def test_a_tile_that_does_not_answer_leaves_the_card_unknown(tmp_path: Path):
    plug(tmp_path, 0, MAX.address, "xe", tile0__physical_vram_size_bytes="64", tile1__physical_vram_size_bytes="?")
    (card,) = query_intel(tmp_path)
    answer = interpret_intel((card,), {}, GpuRules(), {})
    assert (cells(answer), answer.unknown_cells, answer.unknown) == ({}, {card.key}, set())


def test_graphics_of_a_processor_and_other_makers_cards_are_left_out(tmp_path: Path):
    plug(tmp_path, 0, "0000:00:02.0", "i915")
    plug(tmp_path, 1, "0000:04:00.0", "amdgpu", vendor="0x1002")
    graphics = tuple(query_intel(tmp_path))
    assert [(gpu.address, gpu.integrated) for gpu in graphics] == [("0000:00:02.0", True)]
    answer = interpret_intel(graphics, {}, GpuRules(), {})
    assert (answer.resources, answer.findings, answer.unknown_cells) == ((), (), set())
    assert "[gpus] integrated = true" in answer.sights[0].why
    assert tuple(query_intel(tmp_path / "nothing")) == ()


def test_graphics_of_a_processor_share_the_host_s_memory_where_a_person_wants_them():
    """C10."""
    graphics = IntelReading(address="0000:00:02.0", driver="i915", integrated=True)
    answer = interpret_intel((graphics, MAX), {}, GpuRules(integrated=True), {}, lambda: 24576)
    assert cells(answer) == {graphics.key: 24576, MAX.key: 128 * 1024}
    assert ["shares the host's memory" in finding.problem for finding in answer.findings] == [True]


def test_numbers_count_graphics_of_a_processor_although_they_are_left_out():
    answer = interpret_intel((IntelReading(address="0000:00:02.0", integrated=True), MAX), {}, GpuRules(), {})
    assert [(cell.key, cell.index) for resource in answer.resources for cell in resource.cells] == [(MAX.key, 1)]


def test_memory_that_nothing_tells_is_unknown_and_loses_no_other_card():
    answer = interpret_intel((ARC, MAX), {}, GpuRules(), {})
    assert cells(answer) == {MAX.key: 128 * 1024}
    assert answer.unknown_cells == {ARC.key}
    assert "driver 'i915' does not, nor does xpu-smi" in answer.findings[0].problem
    assert [sight.key for sight in answer.sights] == [ARC.key]


def test_what_is_excluded_or_eaten_up_by_headroom_is_no_cell():
    answer = interpret_intel((ARC, MAX), {}, GpuRules(exclude=("intel-0000:03",), headroom_mib=2**20), {})
    assert (cells(answer), answer.unknown_cells) == ({}, set())
    assert [finding.problem for finding in answer.findings] == ["headroom 1024GiB leaves nothing of 128GiB"]


@pytest.mark.parametrize("variable", ["ONEAPI_DEVICE_SELECTOR", "ZE_AFFINITY_MASK"])
def test_a_choice_of_devices_is_warned_of(variable: str):
    assert [f.severity for f in interpret_intel((MAX,), {}, GpuRules(), {variable: "0"}).findings] == ["warning"]
    assert interpret_intel((MAX,), {}, GpuRules(), {variable: ""}).findings == ()


def test_the_words_of_xpu_smi_are_read():
    assert parse_discovery(DISCOVERY) == (0,)
    assert parse_device(DEVICE) == Described(ARC.address, "Intel(R) Arc(TM) A770 Graphics", 16225243136)


@pytest.mark.parametrize("memory", ["", "0", "N/A", "-1", None, "9" * 30])
def test_memory_that_it_does_not_tell_is_unknown(memory: str | None):
    told = parse_device(json.dumps({**json.loads(DEVICE), "memory_physical_size_byte": memory}))
    assert told is not None
    assert told.total is None
    assert interpret_intel((ARC,), {ARC.address: told}, GpuRules(), {}).unknown_cells == {ARC.key}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["device_list", "device_id"]), inner),
    max_leaves=8,
)


@given(st.text() | JSON.map(json.dumps) | st.integers(0, len(DEVICE)).map(lambda end: DEVICE[:end]))
def test_whatever_it_prints_is_read_or_left(text: str):
    assert all(isinstance(number, int) for number in parse_discovery(text))
    told = parse_device(text)
    assert told is None or told.address


def test_the_program_is_asked_where_it_is(tmp_path: Path):
    plug(tmp_path, 1, ARC.address, "i915")
    tool = tmp_path / "bin/xpu-smi"
    put(tmp_path, {"bin/xpu-smi": TOOL.format(python=sys.executable, device=DEVICE, discovery=DISCOVERY)})
    tool.chmod(0o755)
    env = {**os.environ, "PATH": str(tmp_path / "bin")}
    answer = IntelDetector().detect(Scene(root=tmp_path, env=env))
    (cell,) = answer.resources[0].cells
    assert (cell.key, cell.capacity, cell.label) == (ARC.key, 16225243136 // 2**20, "Intel(R) Arc(TM) A770 Graphics")
    assert IntelDetector().detect(Scene(root=tmp_path, env={"PATH": "/nowhere"})).unknown_cells == {ARC.key}

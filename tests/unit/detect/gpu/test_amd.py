"""AMD's cards: made-up trees of sysfs, and what their cards offer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.nvml_stub.double import NvmlDouble
from tests.support.nvml_stub.machines import FakeDevice, Machine
from tests.unit.system.test_container import link, put

from prefect_slots.detect.gpu import amd
from prefect_slots.detect.gpu.amd import AmdReading, interpret_amd, query_amd, query_names
from prefect_slots.detect.survey import survey
from prefect_slots.model.declaration import Declarations, GpuRules, HostRules

GIB = 2**30
ONE = AmdReading(address="0000:03:00.0", unique_id="18f8b7a1c0ffee01", name="Instinct MI210", total=64 * GIB)
TWO = AmdReading(address="0000:83:00.0", unique_id="28f8b7a1c0ffee02", name="Instinct MI210", total=64 * GIB)


def plug(root: Path, number: int, address: str, vendor: str = "0x1002", **files: str) -> None:
    device = root / "sys/devices" / address
    put(device, {"vendor": vendor + "\n", **files})
    link(root / f"sys/class/drm/card{number}/device", f"../../../devices/{address}")
    link(root / f"sys/class/drm/renderD{128 + number}/device", f"../../../devices/{address}")


def cells(
    cards: tuple[AmdReading, ...], rules: GpuRules | None = None, env: dict[str, str] | None = None
) -> dict[str, int]:
    answer = interpret_amd(cards, {}, rules or GpuRules(), env or {})
    return {cell.key: cell.capacity for resource in answer.resources for cell in resource.cells}


def test_cards_are_read_by_their_place_on_the_bus_whatever_their_numbers(tmp_path: Path):
    for number, card in ((1, TWO), (2, ONE)):
        files = {"mem_info_vram_total": f"{card.total}\n", "unique_id": card.unique_id, "product_name": card.name}
        plug(tmp_path, number, card.address, **files)
    plug(tmp_path, 0, "0000:01:00.0", vendor="0x10de", mem_info_vram_total="1")
    (tmp_path / "sys/class/drm/card1-DP-1").mkdir()
    assert tuple(query_amd(tmp_path)) == (ONE, TWO)


def test_a_card_without_a_number_is_known_by_its_place(tmp_path: Path):
    for number, zero in enumerate(("0000000000000000", "")):
        plug(tmp_path, number, f"0000:0{number}:00.0", mem_info_vram_total="1024", unique_id=zero)
    assert [card.key for card in query_amd(tmp_path)] == ["AMD-0000:00:00.0", "AMD-0000:01:00.0"]
    assert ONE.key == "GPU-18f8b7a1c0ffee01"


@pytest.mark.parametrize("files", [{}, {"mem_info_vram_total": "much"}])
def test_a_card_whose_memory_is_not_told_is_unknown_and_does_not_lose_the_others(tmp_path: Path, files: dict[str, str]):
    plug(tmp_path, 0, ONE.address, unique_id=ONE.unique_id, **files)
    plug(tmp_path, 1, TWO.address, mem_info_vram_total=str(TWO.total), unique_id=TWO.unique_id)
    answer = interpret_amd(tuple(query_amd(tmp_path)), {}, GpuRules(), {})
    assert [cell.key for resource in answer.resources for cell in resource.cells] == [TWO.key]
    assert (answer.unknown_cells, answer.unknown) == ({ONE.key}, set())
    assert [(f.subject, f.severity) for f in answer.findings] == [(ONE.key, "error")]


def test_a_machine_without_graphics_has_none(tmp_path: Path):
    assert tuple(query_amd(tmp_path)) == ()
    assert interpret_amd((), {}, GpuRules(), {}).resources == ()


def test_each_card_is_a_cell_of_its_memory_less_the_headroom_called_as_the_library_does():
    answer = interpret_amd((ONE, TWO), {TWO.address: "AMD Instinct MI210"}, GpuRules(headroom_mib=1024), {})
    (resource,) = answer.resources
    assert [(cell.key, cell.capacity, cell.label, cell.index) for cell in resource.cells] == [
        (ONE.key, 63 * 1024, "Instinct MI210", 0),
        (TWO.key, 63 * 1024, "AMD Instinct MI210", 1),
    ]


def test_cards_can_be_excluded_and_a_headroom_can_be_too_large():
    assert cells((ONE, TWO), GpuRules(exclude=("gpu-18f8",))) == {TWO.key: 65536}
    answer = interpret_amd((ONE,), {}, GpuRules(headroom_mib=65536), {})
    assert (answer.resources, "leaves nothing" in answer.findings[0].problem) == ((), True)


@pytest.mark.parametrize(
    ("env", "keys"),
    [
        ({"ROCR_VISIBLE_DEVICES": "1"}, {TWO.key}),
        ({"ROCR_VISIBLE_DEVICES": "GPU-18F8B7A1C0FFEE01"}, {ONE.key}),
        ({"ROCR_VISIBLE_DEVICES": "0,7,1"}, {ONE.key}),
        ({"ROCR_VISIBLE_DEVICES": ""}, set[str]()),
        ({"HIP_VISIBLE_DEVICES": "1"}, {TWO.key}),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, {ONE.key}),
        ({"CUDA_VISIBLE_DEVICES": "1"}, {TWO.key}),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, {TWO.key}),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "1"}, set[str]()),
        ({"HIP_VISIBLE_DEVICES": "0,0"}, {ONE.key}),
        ({}, {ONE.key, TWO.key}),
    ],
)
def test_what_rocm_shows_to_a_process_is_offered(env: dict[str, str], keys: set[str]):
    assert cells((ONE, TWO), None, env).keys() == keys
    findings = interpret_amd((ONE, TWO), {}, GpuRules(), env).findings
    assert bool(findings) == (len(keys) < 2)


LIBRARY = """
print("loaded")
class AmdSmiLibraryException(Exception): ...
def amdsmi_init(): pass
def amdsmi_shut_down(): pass
def amdsmi_get_processor_handles(): return [1]
def amdsmi_get_gpu_device_bdf(card): return "0000:03:00.0".upper()
def amdsmi_get_gpu_asic_info(card): return {"market_name": "Radeon Pro"}
"""


@pytest.fixture
def binding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """AMD's binding in a folder of its own, on a machine that has its library."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(amd.ctypes.util, "find_library", lambda name: f"lib{name}.so")
    yield tmp_path / "amdsmi.py"
    sys.modules.pop("amdsmi", None)


def test_the_library_is_asked_for_names_and_prints_nothing(binding: Path, capsys: pytest.CaptureFixture[str]):
    binding.write_text(LIBRARY)
    assert query_names() == {"0000:03:00.0": "Radeon Pro"}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("text", ["raise KeyError('libamd_smi.so')", LIBRARY.replace("return [1]", "raise OSError")])
def test_a_library_that_fails_costs_only_names(binding: Path, text: str):
    binding.write_text(text)
    assert query_names() == {}


def test_a_binding_without_its_library_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "amdsmi.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(amd.ctypes.util, "find_library", lambda _: None)
    assert query_names() == {}
    assert "amdsmi" not in sys.modules


def seen(root: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, rules: GpuRules | None = None) -> list[str]:
    import pynvml

    monkeypatch.setattr(pynvml, "nvmlLib", NvmlDouble(machine))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    declarations = Declarations(gpus=rules or GpuRules(), host=HostRules(cpus=1, mem_mib=64))
    inventory = survey(declarations, {}, root=root).inventory
    return [cell.key for cell in inventory["gpu_mem"].cells] if "gpu_mem" in inventory else []


def test_amds_cards_count_where_nvidia_has_none_and_never_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plug(tmp_path, 0, ONE.address, mem_info_vram_total=str(ONE.total), unique_id=ONE.unique_id)
    nvidia = Machine(cards=(FakeDevice(uuid="GPU-n"),))
    assert seen(tmp_path, Machine(init=12), monkeypatch) == [ONE.key]
    assert seen(tmp_path, nvidia, monkeypatch) == ["GPU-n"]
    assert seen(tmp_path, nvidia, monkeypatch, GpuRules(exclude=("GPU-n",))) == [ONE.key]
    assert seen(tmp_path, Machine(init=18), monkeypatch) == []


def test_two_cards_with_one_number_cost_only_themselves():
    """C28."""
    answer = interpret_amd(
        (ONE, AmdReading(address="0000:43:00.0", unique_id=ONE.unique_id, total=GIB), TWO), {}, GpuRules(), {}
    )
    assert [cell.key for resource in answer.resources for cell in resource.cells] == [TWO.key]
    assert (answer.unknown_cells, answer.unknown) == ({ONE.key}, set())
    assert [(f.subject, f.severity) for f in answer.findings] == [(ONE.key, "error")]


def test_a_name_that_cannot_be_printed_costs_nothing():
    """C14."""
    answer = interpret_amd((AmdReading(address="0000:43:00.0", name="MI\x07", total=GIB),), {}, GpuRules(), {})
    assert [cell.label for resource in answer.resources for cell in resource.cells] == ["MI\\x07"]


METRICS = {"processor": "\x78\x00\x02\x02", "newer processor": "\x08\x01\x03\x00", "gpu": "\x78\x00\x01\x03"}


@pytest.mark.parametrize(
    ("files", "cores", "integrated"),
    [
        ({"mem_info_vram_total": f"{GIB // 2}"}, None, True),
        ({"mem_info_vram_total": f"{16 * GIB}"}, None, False),
        ({"mem_info_vram_total": f"{16 * GIB}"}, 16, True),
        ({"mem_info_vram_total": f"{96 * GIB}", "gpu_metrics": METRICS["processor"]}, 0, True),
        ({"mem_info_vram_total": f"{96 * GIB}", "gpu_metrics": METRICS["newer processor"]}, None, True),
        ({"mem_info_vram_total": f"{GIB}", "gpu_metrics": METRICS["gpu"]}, None, False),
        ({"mem_info_vram_total": f"{16 * GIB}", "gpu_metrics": ""}, None, False),
    ],
)
def test_graphics_of_a_processor_are_known(tmp_path: Path, files: dict[str, str], cores: int | None, integrated: bool):
    """C10."""
    plug(tmp_path, 0, "0000:c4:00.0", **files)
    if cores is not None:
        node(tmp_path, 1, 128, cores)
    assert [gpu.integrated for gpu in query_amd(tmp_path)] == [integrated]


def node(root: Path, number: int, minor: int, cores: int = 0) -> None:
    properties = f"cpu_cores_count {cores}\nsimd_count 8\ndrm_render_minor {minor}\n"
    put(root / f"sys/class/kfd/kfd/topology/nodes/{number}", {"properties": properties, "gpu_id": "7"})


def test_graphics_of_a_processor_are_left_out_unless_a_person_wants_them(tmp_path: Path):
    """C10."""
    plug(tmp_path, 0, "0000:c4:00.0", mem_info_vram_total=str(GIB // 2))
    plug(tmp_path, 1, ONE.address, mem_info_vram_total=str(16 * GIB), unique_id=ONE.unique_id)
    gpus = tuple(query_amd(tmp_path))
    answer = interpret_amd(gpus, {}, GpuRules(), {})
    assert [cell.key for resource in answer.resources for cell in resource.cells] == [ONE.key]
    assert (answer.findings, answer.unknown_cells) == ((), set())
    assert ["[gpus] integrated = true" in sight.why for sight in answer.sights] == [True]
    assert cells(gpus, GpuRules(integrated=True)) == {ONE.key: 16384, "AMD-0000:c4:00.0": 512}


def test_numbers_are_those_of_rocm_and_count_graphics_of_a_processor(tmp_path: Path):
    """C09."""
    plug(tmp_path, 0, "0000:03:00.0", mem_info_vram_total=str(16 * GIB))
    plug(tmp_path, 1, "0000:04:00.0", mem_info_vram_total=str(GIB // 2))
    plug(tmp_path, 2, "0000:83:00.0", mem_info_vram_total=str(16 * GIB))
    put(tmp_path / "sys/class/kfd/kfd/topology/nodes/0", {"properties": "cpu_cores_count 16\ndrm_render_minor 0\n"})
    for place, minor in enumerate((130, 129, 128), start=1):
        node(tmp_path, place, minor, cores=16 if minor == 129 else 0)
    answer = interpret_amd(tuple(query_amd(tmp_path)), {}, GpuRules(), {})
    assert [(cell.key, cell.index) for resource in answer.resources for cell in resource.cells] == [
        ("AMD-0000:83:00.0", 0),
        ("AMD-0000:03:00.0", 2),
    ]

"""The whole survey: answers merged into one inventory, and no failure that loses more than its own part."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from tests.support.nvml_stub.double import NvmlDouble
from tests.support.nvml_stub.library import environment
from tests.support.nvml_stub.machines import FakeDevice, Machine

import prefect_slots.detect
from prefect_slots.detect.detector import Answer
from prefect_slots.detect.survey import Survey, merge, survey
from prefect_slots.model.amount import Exclusive
from prefect_slots.model.declaration import (
    Declarations,
    DeclaredCard,
    DeclaredLicense,
    DeclaredResource,
    GpuRules,
    HostRules,
)
from prefect_slots.model.finding import Finding, Severity
from prefect_slots.model.resource import Cell, Inventory, Resource

Install = Callable[[Machine], NvmlDouble]

LIBRARY_NOT_FOUND, LIB_RM_VERSION_MISMATCH, GPU_IS_LOST = 12, 18, 15
HOST = HostRules(cpus=1, mem_mib=64)
CARDS = Machine(cards=(FakeDevice(uuid="GPU-a", reserved=0), FakeDevice(uuid="GPU-b", reserved=0)))
DEMO = GpuRules(cards=(DeclaredCard(uuid="GPU-demo", memory_mib=100),))


def names(result: Survey) -> list[str]:
    return [resource.name for resource in result.inventory.resources]


def gpu_cells(result: Survey) -> dict[str, int]:
    return {cell.key: cell.capacity for cell in result.inventory["gpu_mem"].cells}


def test_a_whole_machine_is_one_sorted_inventory(double: Install, tmp_path: Path):
    double(CARDS)
    result = survey(
        Declarations(
            gpus=GpuRules(cards=(DeclaredCard(uuid="GPU-demo", memory_mib=100),), exclude=("GPU-b",)),
            host=HOST,
            licenses=(DeclaredLicense(feature="matlab", seats=2),),
            resources=(DeclaredResource(name="scanner", capacity=1),),
            source="slots.toml",
        ),
        {},
        root=tmp_path,
    )
    assert result.findings == ()
    assert names(result) == ["cpus", "gpu_mem", "license.matlab", "mem", "scanner"]
    assert gpu_cells(result) == {"GPU-a": 24576, "GPU-demo": 100}
    assert result.inventory["gpu_mem"].origin == "nvml, slots.toml"
    assert (result.inventory.unknown, result.inventory.unknown_cells) == (set(), set())


def test_a_machine_without_cards_has_no_gpu_resource_and_a_remark(double: Install, tmp_path: Path):
    double(Machine(init=LIBRARY_NOT_FOUND))
    result = survey(Declarations(host=HOST), {}, root=tmp_path)
    assert names(result) == ["cpus", "mem"]
    assert [finding.severity for finding in result.findings] == ["info"]
    assert result.inventory.unknown == set()


def test_a_driver_that_cannot_tell_leaves_cards_unknown_and_declared_ones_in_place(double: Install, tmp_path: Path):
    double(Machine(init=LIB_RM_VERSION_MISMATCH))
    result = survey(Declarations(gpus=DEMO, host=HOST), {}, root=tmp_path)
    assert gpu_cells(result) == {"GPU-demo": 100}
    assert result.inventory.unknown == {"gpu_mem"}
    assert [finding.severity for finding in result.findings] == ["error"]


def test_without_detection_the_driver_is_not_asked(tmp_path: Path):
    def load() -> NoReturn:
        raise AssertionError("NVML was asked")

    rules = GpuRules(detect=False, cards=DEMO.cards)
    result = survey(Declarations(gpus=rules, host=HOST), {}, load=load, root=tmp_path)
    assert (gpu_cells(result), result.findings) == ({"GPU-demo": 100}, ())


def test_the_given_environment_decides_which_cards_are_visible(double: Install, tmp_path: Path):
    double(CARDS)
    result = survey(Declarations(host=HOST), {"CUDA_VISIBLE_DEVICES": "GPU-b"}, root=tmp_path)
    assert gpu_cells(result) == {"GPU-b": 24576}


def test_a_probe_that_raises_makes_its_resource_unknown_and_loses_nothing_else(tmp_path: Path):
    broken: Any = SimpleNamespace(nvmlInit=lambda: None, nvmlShutdown=lambda: None, nvmlDeviceGetCount=lambda: "two")
    result = survey(Declarations(gpus=DEMO, host=HOST), {}, load=lambda: broken, root=tmp_path)
    assert (names(result), result.inventory.unknown) == (["cpus", "gpu_mem", "mem"], {"gpu_mem"})


def test_a_mistake_in_a_probe_itself_is_told_and_leaves_its_resources_unknown(tmp_path: Path):
    odd: Any = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=str,
        nvmlDeviceGetUUID=lambda _: "GPU-a",
        nvmlDeviceGetName=lambda _: 7,
        nvmlDeviceGetCudaComputeCapability=lambda _: [8, 0],
        nvmlDeviceGetMigMode=lambda _: [0, 0],
        nvmlDeviceGetComputeMode=lambda _: 0,
        nvmlDeviceGetMemoryInfo=lambda *_, **__: SimpleNamespace(total=2**30, reserved=0, used=0),
        nvmlMemory_v2=2,
    )
    result = survey(Declarations(host=HOST), {}, load=lambda: odd, root=tmp_path)
    assert (names(result), result.inventory.unknown) == (["cpus", "mem"], {"gpu_mem"})
    (finding,) = result.findings
    assert finding.problem.startswith("looking at NVIDIA's cards failed: TypeError")


def test_a_host_that_cannot_be_read_keeps_the_cards(double: Install, tmp_path: Path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("nonsense\n")
    double(CARDS)
    result = survey(Declarations(), {}, root=tmp_path)
    assert names(result) == ["gpu_mem"]
    assert result.inventory.unknown == {"cpus", "mem"}


def test_a_card_that_shares_memory_offers_what_cgroups_leave_of_the_hosts(double: Install, tmp_path: Path):
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{200 * 2**20}\n"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    double(Machine(cards=(FakeDevice(uuid="GPU-spark", total=0, reserved=0),)))
    result = survey(Declarations(gpus=GpuRules(headroom_mib=50)), {}, root=tmp_path)
    assert gpu_cells(result) == {"GPU-spark": 150}
    assert result.inventory["mem"].capacity == 200


def test_a_declared_card_replaces_the_detected_one_and_a_larger_claim_is_told(double: Install, tmp_path: Path):
    double(CARDS)
    cards = (DeclaredCard(uuid="GPU-a", memory_mib=99999), DeclaredCard(uuid="GPU-b", memory_mib=1024))
    result = survey(Declarations(gpus=GpuRules(cards=cards), host=HOST, source="slots.toml"), {}, root=tmp_path)
    assert gpu_cells(result) == {"GPU-a": 99999, "GPU-b": 1024}
    assert result.inventory["gpu_mem"].origin == "slots.toml"
    assert [(f.severity, f.subject, f.problem) for f in result.findings] == [
        ("warning", "GPU-a", "declared 99999MiB, but 24GiB can be used")
    ]


def test_a_declared_card_is_known_though_it_cannot_be_read(double: Install, tmp_path: Path):
    double(Machine(cards=(FakeDevice(uuid="GPU-a", name_error=GPU_IS_LOST),)))
    lost = survey(Declarations(host=HOST), {}, root=tmp_path).inventory
    assert ("gpu_mem" in lost, lost.unknown_cells) == (False, {"GPU-a"})
    cards = (DeclaredCard(uuid="GPU-a", memory_mib=5),)
    declared = survey(Declarations(gpus=GpuRules(cards=cards), host=HOST), {}, root=tmp_path).inventory
    assert (declared["gpu_mem"].capacity, declared.unknown_cells) == (5, set())


def test_errors_are_told_before_warnings_and_remarks_in_the_order_they_were_found():
    def told(subject: str, severity: Severity) -> Finding:
        return Finding(subject=subject, problem="x", severity=severity)

    first = Answer(findings=(told("a", "info"), told("b", "warning"), told("c", "error")))
    second = Answer(findings=(told("d", "error"), told("e", "info")))
    assert [finding.subject for finding in merge([first, second], ()).findings] == ["c", "d", "b", "a", "e"]


def test_what_was_found_and_declared_of_each_place_stands_side_by_side(double: Install, tmp_path: Path):
    double(Machine(cards=(*CARDS.cards, FakeDevice(uuid="GPU-c", v2_error=GPU_IS_LOST))))
    cards = (DeclaredCard(uuid="GPU-b", memory_mib=1024), DeclaredCard(uuid="GPU-c", memory_mib=5), *DEMO.cards)
    licences = (DeclaredLicense(feature="matlab", seats=2),)
    host = HostRules(cpus=1, mem_mib=64, mem_headroom_mib=4)
    declarations = Declarations(gpus=GpuRules(cards=cards), host=host, licenses=licences, source="s.toml")
    seen = survey(declarations, {}, root=tmp_path)
    assert [sight.resource for sight in seen.sights] == ["cpus", *["gpu_mem"] * 4, "license.matlab", "mem"]
    told = {sight.key if sight.resource == "gpu_mem" else sight.resource: sight for sight in seen.sights}
    numbers = {name: (sight.found, sight.declared, sight.offered) for name, sight in told.items()}
    assert numbers == {
        "cpus": (numbers["cpus"][0], 1, 1),
        "mem": (numbers["mem"][0], 64, 60),
        "GPU-a": (24576, None, 24576),
        "GPU-b": (24576, 1024, 1024),
        "GPU-c": (None, 5, 5),
        "GPU-demo": (None, 100, 100),
        "license.matlab": (None, 2, 2),
    }
    assert {name: sight.why for name, sight in told.items()} == {
        "cpus": "s.toml",
        "mem": "s.toml, less 4MiB headroom",
        "GPU-a": "nvml",
        "GPU-b": "s.toml",
        "GPU-c": "s.toml",
        "GPU-demo": "s.toml",
        "license.matlab": "s.toml",
    }


def test_what_is_offered_is_exactly_what_the_inventory_holds(double: Install, tmp_path: Path):
    double(CARDS)
    seen = survey(Declarations(gpus=GpuRules(exclude=("GPU-a",), cards=DEMO.cards)), {}, root=tmp_path)
    held = {(r.name, cell.key): cell.capacity for r in seen.inventory.resources for cell in r.cells}
    offered = {(s.resource, s.key): s.offered for s in seen.sights if s.offered is not None}
    assert offered == held
    assert [(s.key, s.found) for s in seen.sights if s.offered is None] == [("GPU-a", 24576)]


def test_merging_nothing_is_an_empty_machine():
    assert merge([], ()) == Survey(inventory=Inventory())


def test_a_declared_resource_that_nothing_detects_stands_alone():
    scanner = Resource(name="scanner", unit="device", cells=(Cell(key="0", capacity=1),))
    assert merge([], (scanner,)).inventory == Inventory(resources=(scanner,))


def test_the_real_machine_can_be_surveyed():
    result = survey(Declarations(gpus=GpuRules(detect=False)), os.environ)
    assert result.inventory["cpus"].capacity >= 1
    assert result.inventory["mem"].capacity >= 1


def test_the_survey_of_a_stub_library_sees_its_cards(nvml_library: Path, tmp_path: Path):
    code = (
        "from pathlib import Path\n"
        "from prefect_slots.detect.survey import survey\n"
        "from prefect_slots.model.declaration import Declarations\n"
        f"found = survey(Declarations(), {{'CUDA_VISIBLE_DEVICES': '1'}}, root=Path({str(tmp_path)!r})).inventory\n"
        "print([(cell.key, cell.capacity) for cell in found['gpu_mem'].cells])\n"
    )
    env = environment(nvml_library, CARDS)
    child = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert child.stdout == "[('GPU-b', 24576)]\n"


@pytest.mark.parametrize("module", [m.name for m in pkgutil.iter_modules(prefect_slots.detect.__path__)])
def test_every_room_is_on_the_map_and_opens_with_its_subject(module: str):
    assert f"\n{module} " in (prefect_slots.detect.__doc__ or "")
    opened = importlib.import_module(f"prefect_slots.detect.{module}")
    assert (opened.__doc__ or "").splitlines()[0].endswith(".")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (("GPU-a", "GPU-b"), ()),
        (("GPU-18f8b7a1c0ffee01", "GPU-18f8b7a1c0ffee02"), ()),
        (("INTEL-0000:03:00.0",), ()),
        (("APPLE-GPU",), ()),
        (("INTEL-0000:03:00.0", "INTEL-0000:83:00.0"), ()),
        (("AMD-0000:03:00.0", "GPU-18f8b7a1c0ffee02"), ()),
        (("1833c8b5-aaf3-5b92-89cd-0123456789ab",), ()),
        (("TPX-7",), ("no vendor",)),
    ],
)
def test_gpus_to_which_no_task_can_be_pinned_are_told(keys: tuple[str, ...], told: tuple[str, ...]):
    cells = tuple(Cell(key=key, capacity=1) for key in keys)
    merged = merge([Answer(resources=(Resource(name="gpu_mem", unit="MiB", cells=cells),))], ())
    assert all(word in finding.problem for word, finding in zip(told, merged.findings, strict=True))
    assert {finding.subject for finding in merged.findings} <= set(keys)
    # Two processes that see several GPUs of a kind would meet on one of them.
    alone = [cell.key for cell in merged.inventory["gpu_mem"].cells if isinstance(cell.capacity, Exclusive)]
    assert alone == [finding.subject for finding in merged.findings]


def test_a_declared_gpu_keeps_the_number_that_detection_tells():
    detected = Cell(key="AMD-0000:03:00.0", capacity=1, index=3)
    declared = Resource(name="gpu_mem", unit="MiB", cells=(Cell(key=detected.key, capacity=7),))
    merged = merge([Answer(resources=(replace(declared, cells=(detected,)),))], (declared,))
    assert merged.inventory["gpu_mem"].cells == (replace(detected, capacity=7),)

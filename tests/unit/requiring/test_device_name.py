"""`grant.device`: the name by which this process reaches the granted GPU, or an error."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.nvml_stub.library import build, environment
from tests.support.nvml_stub.machines import GIB, FakeDevice, Machine
from tests.support.processes import SharedMachine

from prefect_slots.errors import ConfigError
from prefect_slots.model import gpu
from prefect_slots.model.gpu import Gpu
from prefect_slots.requiring.device_name import device_name

VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "ZE_ENABLE_PCI_ID_DEVICE_ORDER",
    "ZE_FLAT_DEVICE_HIERARCHY",
    "ONEAPI_DEVICE_SELECTOR",
)
BY_BUS = {"ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1", "ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE"}
T400, A6000 = "99999999-0000-0000-0000-000000000000", "99999999-0000-0000-0000-000000000001"
MIXED = Machine(
    cards=(
        FakeDevice(uuid=f"GPU-{T400}", name="NVIDIA T400 4GB", total=4 * GIB),
        FakeDevice(uuid=f"GPU-{A6000}", name="NVIDIA RTX A6000", total=48 * GIB),
    )
)
TWO = Machine(cards=(FakeDevice(uuid=f"GPU-{T400}"), FakeDevice(uuid=f"GPU-{A6000}")))
SLICE = FakeDevice(uuid="MIG-1", name="NVIDIA A100 MIG 3g.20gb", total=20 * GIB, reserved=0, gi=1)
SLICED = FakeDevice(uuid="GPU-m", mig=1, pending=1, slots=7, instances=(SLICE,))
TWO_SLICES = Machine(cards=(replace(SLICED, instances=(SLICE, replace(SLICE, uuid="MIG-2", slot=1, gi=2))),))
ASK = """
import ctypes, os, sys
from prefect_slots import requires
from prefect_slots.errors import ConfigError
started = sys.argv[1] == "started" and ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
os.environ.update(dict(each.split("=") for each in sys.argv[3:]))
with requires(gpu_mem=int(sys.argv[2])) as grant:
    try:
        print(grant.device)
    except ConfigError as error:
        print(error)
cuda, told = ctypes.CDLL("libcuda.so.1"), (ctypes.c_ubyte * 16)()
cuda.cuInit(0)
cuda.cuDeviceGetUuid_v2(told, 0)
print(bytes(told).hex())
"""


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stub libraries of NVML and CUDA."""
    folder = build(tmp_path_factory.mktemp("drivers"))
    compiler = shutil.which("cc")
    assert compiler is not None
    source, library = Path(__file__).parents[2] / "support/cuda_stub.c", folder / "new/libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source], check=True)
    return folder


def ask(
    libraries: Path, folder: Path, machine: Machine, gib: int, *later: str, started: bool = False, **env: str
) -> tuple[str, str, str]:
    """Return `grant.device` in a process of its own, the UUID of its device 0, and its log."""
    place = SharedMachine(folder, '[settings]\nworker = "w"\n')
    clean = {name: value for name, value in environment(libraries, machine).items() if name not in VARIABLES}
    # The largest is the fastest.
    uuids = [card.uuid.removeprefix("GPU-").replace("-", "") for card in machine.cards]
    told = {"CUDA_STUB_BUS": ",".join(uuids), "CUDA_STUB_FASTEST": ",".join(reversed(uuids))}
    command = [sys.executable, "-c", ASK, "started" if started else "idle", str(gib), *later]
    done = subprocess.run(
        command, env={**clean, **place.settings, **told, **env}, capture_output=True, text=True, check=True
    )
    device, first = done.stdout.splitlines()
    return device, first, done.stderr


def test_different_gpus_are_numbered_by_bus_before_cuda_starts(libraries: Path, tmp_path: Path) -> None:
    """C13: CUDA's own order is the fastest first."""
    device, first, log = ask(libraries, tmp_path, MIXED, 40)
    assert (device, first) == ("cuda:1", T400.replace("-", ""))
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID is set" in log


def test_once_cuda_has_started_the_driver_is_asked(libraries: Path, tmp_path: Path) -> None:
    """C13."""
    device, first, log = ask(libraries, tmp_path, MIXED, 40, started=True)
    assert (device, first) == ("cuda:0", A6000.replace("-", ""))
    assert "CUDA_DEVICE_ORDER" not in log


def test_an_order_that_a_person_chose_is_refused_and_not_changed(libraries: Path, tmp_path: Path) -> None:
    """C13."""
    device, _, _ = ask(libraries, tmp_path, MIXED, 40, CUDA_DEVICE_ORDER="FASTEST_FIRST")
    assert "set CUDA_DEVICE_ORDER=PCI_BUS_ID" in device


def test_equal_gpus_need_no_order(libraries: Path, tmp_path: Path) -> None:
    device, _, log = ask(libraries, tmp_path, TWO, 20)
    assert device == "cuda:0"
    assert "CUDA_DEVICE_ORDER" not in log


def test_a_list_that_was_changed_after_cuda_had_started_is_not_believed(libraries: Path, tmp_path: Path) -> None:
    """C13."""
    visible = f"CUDA_VISIBLE_DEVICES=GPU-{A6000}"
    assert ask(libraries, tmp_path, MIXED, 40, visible, started=True, CUDA_DEVICE_ORDER="PCI_BUS_ID")[0] == "cuda:1"


def test_a_list_that_was_changed_after_registration_decides(libraries: Path, tmp_path: Path) -> None:
    """C13."""
    ask(libraries, tmp_path, MIXED, 40)
    assert ask(libraries, tmp_path, MIXED, 40, CUDA_VISIBLE_DEVICES=f"GPU-{T400},GPU-{A6000}")[0] == "cuda:1"
    assert ask(libraries, tmp_path, MIXED, 40, CUDA_VISIBLE_DEVICES=f"GPU-{A6000},GPU-{T400}")[0] == "cuda:0"
    hidden = ask(libraries, tmp_path, MIXED, 40, CUDA_VISIBLE_DEVICES=f"GPU-{T400}")[0]
    assert f"CUDA_VISIBLE_DEVICES='GPU-{T400}' hides it from this process" in hidden
    assert "prefect-slots run" in hidden


def test_of_several_mig_instances_a_process_that_is_not_pinned_reaches_none(libraries: Path, tmp_path: Path) -> None:
    """C04, C08."""
    refused = ask(libraries, tmp_path, TWO_SLICES, 16)[0]
    assert "CUDA shows a process one MIG instance at most" in refused
    assert "SlotPool" in refused
    assert ask(libraries, tmp_path, TWO_SLICES, 16, CUDA_VISIBLE_DEVICES="MIG-1,MIG-2")[0] == "cuda:0"
    assert "one MIG instance" in ask(libraries, tmp_path, TWO_SLICES, 16, CUDA_VISIBLE_DEVICES="MIG-2,MIG-1")[0]


def test_a_single_mig_instance_is_the_one(libraries: Path, tmp_path: Path) -> None:
    assert ask(libraries, tmp_path, Machine(cards=(SLICED,)), 16)[0] == "cuda:0"


AMD, AMD_2 = Gpu(gpu.amd_key("18f8b7a1c0ffee01", ""), 1), Gpu(gpu.amd_key("18f8b7a1c0ffee02", ""), 2)
OLD_AMD = Gpu(gpu.amd_key("", "0000:03:00.0"), 2)
INTEL, INTEL_2 = Gpu(gpu.intel_key("0000:03:00.0"), 1), Gpu(gpu.intel_key("0000:83:00.0"), 2)


@pytest.mark.parametrize(
    ("granted", "env", "name"),
    [
        (AMD_2, {}, "cuda:2"),
        (AMD_2, {"ROCR_VISIBLE_DEVICES": f"{AMD_2.key},{AMD.key}"}, "cuda:0"),
        (AMD_2, {"ROCR_VISIBLE_DEVICES": "1,2"}, "cuda:1"),
        (AMD_2, {"ROCR_VISIBLE_DEVICES": "1,2", "HIP_VISIBLE_DEVICES": "1"}, "cuda:0"),
        (AMD_2, {"CUDA_VISIBLE_DEVICES": "2,1"}, "cuda:0"),
        (OLD_AMD, {"ROCR_VISIBLE_DEVICES": "2"}, "cuda:0"),
        (INTEL_2, {"ZE_AFFINITY_MASK": "2,1"}, "xpu:1"),
        (INTEL_2, {"ZE_AFFINITY_MASK": "2,1", "ONEAPI_DEVICE_SELECTOR": "level_zero:1"}, "xpu:0"),
        (INTEL_2, {"ZE_AFFINITY_MASK": "1,2", "ONEAPI_DEVICE_SELECTOR": "level_zero:gpu"}, "xpu:1"),
        (INTEL_2, BY_BUS, "xpu:2"),
        (Gpu(gpu.APPLE_KEY, 0), {"CUDA_VISIBLE_DEVICES": "7"}, "mps"),
        (Gpu("GPU-test-1", 1), {}, "cuda:1"),
        (Gpu("GPU-test-1", 1), {"CUDA_VISIBLE_DEVICES": "1,0"}, "cuda:0"),
        (Gpu("GPU-test-1", 1), {"CUDA_VISIBLE_DEVICES": "GPU-test-0,GPU-test-1"}, "cuda:1"),
    ],
)
def test_each_runtime_s_own_lists_decide(
    granted: Gpu, env: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    visible(env, monkeypatch)
    present = [Gpu("GPU-test-0", 0), Gpu("GPU-test-1", 1), AMD, AMD_2, INTEL, INTEL_2]
    assert device_name(granted, present) == name


@pytest.mark.parametrize(
    ("granted", "env"),
    [
        (AMD_2, {"ROCR_VISIBLE_DEVICES": AMD.key}),
        (AMD_2, {"HIP_VISIBLE_DEVICES": "0"}),
        (INTEL_2, {}),
        (INTEL_2, {"ZE_AFFINITY_MASK": "1"}),
        (INTEL_2, BY_BUS | {"ONEAPI_DEVICE_SELECTOR": "level_zero:0,1"}),
        (Gpu("GPU-test-1", 1), {"CUDA_VISIBLE_DEVICES": "0"}),
        (Gpu("GPU-test-1", 1), {"CUDA_VISIBLE_DEVICES": ""}),
        (Gpu("TPX-7", 0), {}),
    ],
)
def test_a_gpu_that_this_process_does_not_see_has_no_name(
    granted: Gpu, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    visible(env, monkeypatch)
    with pytest.raises(ConfigError, match=granted.key):
        device_name(granted, [Gpu("GPU-test-0", 0), Gpu("GPU-test-1", 1), AMD, AMD_2, INTEL, INTEL_2])


def visible(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)

"""The vendor of a GPU by its key: the variables that pin a process to it, and what frameworks call it."""

from __future__ import annotations

import pytest

from prefect_slots.model import gpu
from prefect_slots.model.gpu import Gpu

NVIDIA = "GPU-5f2c91aa-0000-1111-2222-333344445555"
AMD, AMD_2 = gpu.amd_key("18f8b7a1c0ffee01", "0000:03:00.0"), gpu.amd_key("18f8b7a1c0ffee02", "0000:04:00.0")
OLD_AMD, OLD_AMD_2 = gpu.amd_key("", "0000:03:00.0"), gpu.amd_key("", "0000:04:00.0")
INTEL, INTEL_2 = gpu.intel_key("0000:03:00.0"), gpu.intel_key("0000:83:00.0")
JETSON = "1833c8b5-aaf3-5b92-89cd-0123456789ab"
BROUGHT = "TPX-7"


def pinned(*gpus: Gpu, **env: str) -> dict[str, str]:
    gpu.pin(env, gpus)
    return env


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (NVIDIA, "NVIDIA"),
        ("GPU-demo-0", "NVIDIA"),
        (JETSON, "NVIDIA"),
        (JETSON.upper().replace("-", ""), "NVIDIA"),
        ("MIG-5f2c91aa-0000-1111-2222-333344445555", "NVIDIA"),
        ("MIG-GPU-5f2c91aa/1/0", "NVIDIA"),
        ("GPU-18f8b7a1c0ffee01", "AMD"),
        (AMD, "AMD"),
        (OLD_AMD, "AMD"),
        (INTEL, "Intel"),
        (gpu.APPLE_KEY, "Apple"),
        (BROUGHT, "unknown"),
    ],
)
def test_the_key_of_a_gpu_tells_its_vendor(key: str, name: str) -> None:
    assert gpu.vendor_of(key).name == name


def test_amds_gpus_are_pinned_by_the_runtime_that_knows_their_names() -> None:
    env = pinned(Gpu(AMD, 3), Gpu(AMD_2, 2), CUDA_VISIBLE_DEVICES="3", HIP_VISIBLE_DEVICES="3", HOME="/root")
    assert env == {"ROCR_VISIBLE_DEVICES": f"{AMD},{AMD_2}", "HOME": "/root"}


@pytest.mark.parametrize(
    ("gpus", "listed"), [((Gpu(OLD_AMD, 1),), "1"), ((Gpu(AMD, 0), Gpu(OLD_AMD_2, 2)), f"{AMD},2")]
)
def test_amds_gpus_without_a_number_of_their_own_are_pinned_by_their_place(gpus: tuple[Gpu, ...], listed: str) -> None:
    """C09: `CUDA_VISIBLE_DEVICES=AMD-...` hides every GPU from HIP, which reads it too."""
    assert pinned(*gpus, CUDA_VISIBLE_DEVICES=OLD_AMD) == {"ROCR_VISIBLE_DEVICES": listed}


def test_intels_gpus_are_pinned_by_their_place_on_the_bus() -> None:
    env = pinned(Gpu(INTEL_2, 2), Gpu(INTEL, 1), ONEAPI_DEVICE_SELECTOR="level_zero:1", CUDA_VISIBLE_DEVICES="7")
    assert env == {
        "ZE_AFFINITY_MASK": "1,2",
        "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1",
        "ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE",
        "CUDA_VISIBLE_DEVICES": "7",
    }


def test_the_gpu_of_a_jetson_is_pinned_by_number() -> None:
    assert pinned(Gpu(JETSON, 0)) == {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_nvidias_gpus_leave_amds_variables_alone() -> None:
    env = pinned(Gpu(NVIDIA, 1), ROCR_VISIBLE_DEVICES="0")
    assert env == {"ROCR_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": NVIDIA, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_each_vendor_of_a_grant_has_its_own_list() -> None:
    env = pinned(Gpu(NVIDIA), Gpu(AMD), Gpu(INTEL))
    assert (env["CUDA_VISIBLE_DEVICES"], env["ROCR_VISIBLE_DEVICES"]) == (NVIDIA, AMD)


@pytest.mark.parametrize("key", [INTEL, gpu.APPLE_KEY, OLD_AMD, BROUGHT, JETSON])
def test_a_gpu_without_a_name_or_a_number_is_never_written_into_another_one_s_list(key: str) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "3", "ZE_AFFINITY_MASK": "0"}
    assert pinned(Gpu(key), **env) == env


def test_a_list_that_would_hide_a_granted_gpu_is_not_written() -> None:
    assert pinned(Gpu(AMD), Gpu(OLD_AMD_2)) == {}


def test_a_declared_gpu_is_counted_among_those_of_its_vendor_by_its_place_on_the_bus() -> None:
    present = [NVIDIA, INTEL_2, INTEL, OLD_AMD]
    assert [gpu.number_among(key, present) for key in present] == [None, 1, 0, 0]


@pytest.mark.parametrize(
    ("gpus", "present", "loose"),
    [
        ([Gpu(NVIDIA)], [NVIDIA, "GPU-b"], []),
        ([Gpu(AMD)], [AMD, AMD_2], []),
        ([Gpu(INTEL)], [INTEL, NVIDIA], []),
        ([Gpu(INTEL)], [INTEL, INTEL_2], [INTEL]),
        ([Gpu(INTEL, 0)], [INTEL, INTEL_2], []),
        ([Gpu(INTEL), Gpu(INTEL_2)], [INTEL, INTEL_2], []),
        ([Gpu(gpu.APPLE_KEY)], [gpu.APPLE_KEY], []),
        ([Gpu(OLD_AMD)], [OLD_AMD], []),
        ([Gpu(OLD_AMD)], [OLD_AMD, AMD_2], [OLD_AMD]),
        ([Gpu(BROUGHT, 0)], [BROUGHT], [BROUGHT]),
    ],
)
def test_gpus_to_which_no_process_can_be_pinned_are_told(gpus: list[Gpu], present: list[str], loose: list[str]) -> None:
    assert gpu.unpinned(gpus, present) == loose

"""The vendor of a GPU by its key: the variables that pin a process to it, and what frameworks call it."""

from __future__ import annotations

import pytest

from prefect_slots.model import gpu

NVIDIA = "GPU-5f2c91aa-0000-1111-2222-333344445555"
AMD, AMD_2 = gpu.amd_key("18f8b7a1c0ffee01", "0000:03:00.0"), gpu.amd_key("18f8b7a1c0ffee02", "0000:04:00.0")
OLD_AMD, OLD_AMD_2 = gpu.amd_key("", "0000:03:00.0"), gpu.amd_key("", "0000:04:00.0")
INTEL, INTEL_2 = gpu.intel_key("0000:03:00.0"), gpu.intel_key("0000:83:00.0")
BROUGHT = "TPX-7"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (NVIDIA, "NVIDIA"),
        ("GPU-demo-0", "NVIDIA"),
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


@pytest.mark.parametrize(
    ("visible", "index"),
    [("", 1), ("GPU-test-1", 0), ("GPU-test-0,GPU-test-1", 1), ("0, 1", 1), ("1,0", 0), ("3,GPU-test", 1)],
)
def test_a_gpu_is_found_among_those_that_cuda_shows(visible: str, index: int) -> None:
    assert gpu.framework_name("GPU-test-1", 1, {"CUDA_VISIBLE_DEVICES": visible}) == f"cuda:{index}"


def test_amds_gpus_are_pinned_by_the_runtime_that_knows_their_names() -> None:
    env = {"CUDA_VISIBLE_DEVICES": "3", "HIP_VISIBLE_DEVICES": "3", "HOME": "/root"}
    gpu.pin(env, [AMD, AMD_2])
    assert env == {"ROCR_VISIBLE_DEVICES": f"{AMD},{AMD_2}", "HOME": "/root"}
    assert gpu.framework_name(AMD_2, 5, env) == "cuda:1"
    assert gpu.framework_name(AMD_2, 5, {"CUDA_VISIBLE_DEVICES": "0"}) == "cuda:5"


def test_nvidias_gpus_leave_amds_variables_alone() -> None:
    env = {"ROCR_VISIBLE_DEVICES": "0"}
    gpu.pin(env, [NVIDIA])
    assert env == {"ROCR_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": NVIDIA, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_each_vendor_of_a_grant_has_its_own_list() -> None:
    env: dict[str, str] = {}
    gpu.pin(env, [NVIDIA, AMD, INTEL])
    assert (env["CUDA_VISIBLE_DEVICES"], env["ROCR_VISIBLE_DEVICES"]) == (NVIDIA, AMD)


@pytest.mark.parametrize("key", [INTEL, gpu.APPLE_KEY, OLD_AMD, BROUGHT])
def test_a_gpu_without_a_name_in_its_runtime_is_never_written_into_another_one_s_list(key: str) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "3", "ZE_AFFINITY_MASK": "0"}
    gpu.pin(env, [key])
    assert env == {"CUDA_VISIBLE_DEVICES": "3", "ZE_AFFINITY_MASK": "0"}


def test_a_list_that_would_hide_a_granted_gpu_is_not_written() -> None:
    env: dict[str, str] = {}
    gpu.pin(env, [AMD, OLD_AMD_2])
    assert env == {}


@pytest.mark.parametrize(
    ("key", "name"), [(INTEL, "xpu:2"), (gpu.APPLE_KEY, "mps"), (OLD_AMD, "cuda:2"), (AMD, "cuda:2")]
)
def test_each_vendor_s_gpu_has_the_name_that_frameworks_know(key: str, name: str) -> None:
    assert gpu.framework_name(key, 2, {"CUDA_VISIBLE_DEVICES": "7"}) == name


def test_a_gpu_of_no_known_vendor_has_no_name() -> None:
    assert gpu.framework_name(BROUGHT, 0, {}) == ""


@pytest.mark.parametrize(
    ("keys", "present", "loose"),
    [
        ([NVIDIA], [NVIDIA, "GPU-b"], []),
        ([AMD], [AMD, AMD_2], []),
        ([INTEL], [INTEL, NVIDIA], []),
        ([INTEL], [INTEL, INTEL_2], [INTEL]),
        ([INTEL, INTEL_2], [INTEL, INTEL_2], []),
        ([gpu.APPLE_KEY], [gpu.APPLE_KEY], []),
        ([OLD_AMD], [OLD_AMD], []),
        ([OLD_AMD], [OLD_AMD, AMD_2], [OLD_AMD]),
        ([BROUGHT], [BROUGHT], [BROUGHT]),
    ],
)
def test_gpus_to_which_no_process_can_be_pinned_are_told(keys: list[str], present: list[str], loose: list[str]) -> None:
    assert gpu.unpinned(keys, present) == loose

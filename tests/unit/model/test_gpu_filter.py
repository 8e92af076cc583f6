"""Filters of GPUs: which names and compute capabilities they accept, and what is no filter."""

from __future__ import annotations

import time

import pytest

from prefect_slots.errors import InvalidRequirement
from prefect_slots.model import GpuFilter, Requirement, declare
from prefect_slots.model.requirement import Demand


@pytest.mark.parametrize(
    ("pattern", "name", "accepted"),
    [
        ("", "", True),
        ("H100", "NVIDIA H100 80GB HBM3", True),
        ("h100|A100", "NVIDIA A100-SXM4-80GB", True),
        ("H100|A100", "NVIDIA A10", False),
        ("H100 | A100", "NVIDIA A100-SXM4-80GB", True),
        ("A10", "NVIDIA A100-SXM4-80GB", False),
        ("A10*", "NVIDIA A100-SXM4-80GB", True),
        ("A", "NVIDIA A100", False),
        ("A100 80GB", "NVIDIA A100-SXM4-80GB", True),
        ("80GB A100-SXM4", "NVIDIA A100-SXM4-80GB", True),
        ("A100 80GB", "NVIDIA A100-SXM4-40GB", False),
        ("MI300X", "AMD Instinct MI300X", True),
        ("H100", "", False),
        ("(a+)+", "NVIDIA A100", False),
    ],
)
def test_a_name_is_accepted_by_its_words(pattern: str, name: str, accepted: bool) -> None:
    assert GpuFilter(name=pattern).accepts(name, "") is accepted


@pytest.mark.parametrize(
    ("asked", "capability", "accepted"),
    [
        (">=8.0", "8.0", True),
        (">=8.0", "7.5", False),
        (">=8", "10.0", True),
        (">8.6", "8.6", False),
        (">=7.5,<9", "8.9", True),
        (">=7.5,<9", "9.0", False),
        ("8.6", "8.6", True),
        ("==8.6", "8.9", False),
        ("<=8.9", "", False),
        (">=8.0", "gfx942", False),
    ],
)
def test_capabilities_are_compared_as_numbers_and_an_unknown_one_will_not_do(
    asked: str, capability: str, accepted: bool
) -> None:
    assert GpuFilter(capability=asked).accepts("any", capability) is accepted


def test_a_filter_made_to_take_long_does_not() -> None:
    # Another user's filter is matched while this process decides.
    began = time.perf_counter()
    assert not GpuFilter(name="*".join("a" * 200) + "b").accepts("a" * 95, "")
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ({"gpu": "H100"}, "gpu"),
        ({"gpu_capability": ">=8", "mem": 1}, "gpu"),
        ({"gpus": 1, "gpu": "H100|"}, "gpu"),
        ({"gpus": 1, "gpu": "*"}, "gpu"),
        ({"gpus": 1, "gpu": ""}, "gpu"),
        ({"gpus": 1, "gpu": 100}, "gpu"),
        ({"gpus": 1, "gpu_capability": "new"}, "gpu_capability"),
        ({"gpus": 1, "gpu_capability": 8.0}, "gpu_capability"),
        ({"gpus": 1, "gpu_capability": ">=8,"}, "gpu_capability"),
    ],
)
def test_a_mistake_is_refused_under_its_key(words: dict[str, object], key: str) -> None:
    with pytest.raises(InvalidRequirement) as caught:
        declare(**words)
    assert caught.value.key == key


def test_a_requirement_says_which_gpu_and_survives_the_ledger() -> None:
    wanted = declare(gpu_mem=8, gpu="H100 | A100", gpu_capability=">= 8.0")
    assert wanted.demands == (Demand(resource="gpu_mem", amount=8192, gpu=GpuFilter("H100 | A100", ">=8.0")),)
    assert Requirement.from_data(wanted.to_data()) == wanted
    assert wanted.describe() == "8GiB of gpu_mem on one H100 | A100 of compute capability >=8.0 card"
    assert declare(gpu_mem=8).to_data() == [["gpu_mem", 8192, 1]]

"""Machines of reported drivers, by the real commands over a real NVML library: their case numbers are in the names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.nvml_stub.library import build, environment
from tests.support.nvml_stub.machines import GIB, FakeDevice, Machine
from tests.support.processes import SharedMachine

SLICE = FakeDevice(uuid="MIG-1", name="NVIDIA A100 MIG 1c.3g.20gb", total=20 * GIB, reserved=0, gi=1)
PARENT = FakeDevice(uuid="GPU-m", mig=1, pending=1, slots=7, total=40 * GIB)


def sliced(*places: tuple[int, int]) -> Machine:
    """A GPU in MIG mode with instances at these places: the GPU instance, the compute instance."""
    instances = tuple(replace(SLICE, uuid=f"MIG-{n}", slot=n, gi=gi, ci=ci) for n, (gi, ci) in enumerate(places))
    return Machine(cards=(replace(PARENT, instances=instances),))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


Place = Callable[[Machine], SharedMachine]


@pytest.fixture
def place(library: Path, tmp_path: Path) -> Place:
    """Return a machine whose NVML tells of these GPUs."""

    def make(machine: Machine) -> SharedMachine:
        shared = SharedMachine(tmp_path, '[settings]\nworker = "field"\n')
        told = environment(library, machine)
        shared.settings |= {name: told[name] for name in ("LD_LIBRARY_PATH", "NVML_STUB")}
        return shared

    return make


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefect_slots", "run", *arguments]


@pytest.fixture
def holding() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a `run` whose command has begun, and ends when its input does."""
    begun: list[subprocess.Popen[str]] = []

    def start(machine: SharedMachine, *amounts: str) -> subprocess.Popen[str]:
        words = command(*amounts, "--", "sh", "-c", "echo begun; read end")
        begun.append(subprocess.Popen(words, env=machine.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert begun[-1].stdout is not None
        assert begun[-1].stdout.readline() == "begun\n"
        return begun[-1]

    yield start
    for process in begun:
        process.communicate("\n")


def refused(machine: SharedMachine, *amounts: str) -> str:
    """Return the error of a `run` that is not granted."""
    done = subprocess.run(command(*amounts, "--", "true"), env=machine.env, capture_output=True, text=True, check=False)
    assert done.returncode in {124, 125}, done.stderr
    return done.stderr


def test_compute_instances_of_one_gpu_instance_are_used_one_at_a_time(
    place: Place, holding: Callable[..., subprocess.Popen[str]]
) -> None:
    """C05."""
    machine = place(sliced((1, 0), (1, 1), (1, 2)))
    holding(machine, "--gpu-mem", "20")
    assert "waits for 20480 MiB on one card; gpu 0 has 0 free" in refused(machine, "--gpu-mem", "20", "--timeout", "0")


def test_one_process_gets_one_mig_instance_at_most(place: Place) -> None:
    """C04."""
    machine = place(sliced((1, 0), (2, 0)))
    told = refused(machine, "--gpu-mem", "16", "--gpus", "2")
    assert "2 of its 2 cards are MIG instances, and a process can use one of these at most" in told

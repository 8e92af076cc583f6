"""Machines of reported drivers, by the real commands over a real NVML library: their case numbers are in the names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.card_scene import stranger
from tests.support.nvml_stub.library import build, environment
from tests.support.nvml_stub.machines import GIB, MIB, NOT_SUPPORTED, FakeDevice, FakeProcess, Machine
from tests.support.processes import SharedMachine

from prefect_slots.detect.host import query_memory

SLICE = FakeDevice(uuid="MIG-1", name="NVIDIA A100 MIG 1c.3g.20gb", total=20 * GIB, reserved=0, gi=1)
UNIFIED = FakeDevice(
    uuid="GPU-5", name="NVIDIA GB10", total=0, reserved=0, v1_error=NOT_SUPPORTED, v2_error=NOT_SUPPORTED
)
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
        if process.returncode is None:
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


@pytest.mark.slow
def test_memory_of_the_host_and_of_a_gpu_that_shares_it_are_one_pool(
    place: Place, holding: Callable[..., subprocess.Popen[str]]
) -> None:
    """C20."""
    machine = place(Machine(cards=(UNIFIED,)))
    mib = query_memory()
    most, half = f"{mib * 6 // 10}MiB", f"{mib * 3 // 10}MiB"
    first = holding(machine, "--gpu-mem", most)
    assert "waits for" in refused(machine, "--mem", most, "--timeout", "0")
    assert "waits for" in refused(machine, "--gpus", "1", "--timeout", "0")
    holding(machine, "--mem", half)
    first.communicate("\n")
    assert "waits for" in refused(machine, "--gpu-mem", f"{mib * 8 // 10}MiB", "--timeout", "0")
    holding(machine, "--gpu-mem", most)
    assert "can never give" in refused(machine, "--gpu-mem", most, "--mem", most)


def test_what_strangers_use_of_a_unified_memory_is_not_free_for_either(place: Place) -> None:
    """C20."""
    mib = query_memory()
    stranger = FakeProcess(pid=1, memory=mib * 2**20 // 2)
    machine = place(Machine(cards=(replace(UNIFIED, processes=(stranger,)),)))
    most = f"{mib * 6 // 10}MiB"
    assert "others" in refused(machine, "--gpu-mem", most, "--timeout", "0")
    assert "waits for" in refused(machine, "--mem", most, "--timeout", "0")


CARD = FakeDevice(uuid="GPU-a", name="NVIDIA RTX A5000")


def desktop(*processes: FakeProcess) -> Machine:
    return Machine(cards=(replace(CARD, used=sum(each.memory for each in processes), processes=processes),))


def mib(pid: int, amount: int, kind: str = "compute") -> FakeProcess:
    return FakeProcess(pid=pid, memory=amount * MIB, kind=kind)


def granted(machine: SharedMachine, *amounts: str) -> list[tuple[str, int]]:
    subprocess.run(command(*amounts, "--timeout", "0", "--", "true"), env=machine.env, check=True)
    return machine.all("SELECT resource, amount FROM history ORDER BY id DESC LIMIT 1")


def test_a_display_server_leaves_a_whole_gpu_to_a_task_and_its_memory_to_nobody(place: Place) -> None:
    """`desktop`."""
    machine = place(desktop(mib(1, 300, "graphics")))
    assert granted(machine, "--gpus", "1") == [("gpu_mem", 24064 - 300)]
    assert granted(machine, "--gpus", "0.5") == [("gpu_mem", (24064 - 300) // 2)]
    assert "waits for" in refused(machine, "--gpu-mem", "24000MiB", "--timeout", "0")


def test_a_compositor_that_computes_is_known_by_its_name(place: Place) -> None:
    with stranger("gnome-shell") as pid:
        assert granted(place(desktop(mib(pid, 400))), "--gpus", "1") == [("gpu_mem", 24064 - 400)]


@pytest.mark.parametrize("process", [mib(1, 2048, "graphics"), mib(1, 400), mib(1, 400, "mps")])
def test_another_user_of_a_gpu_stands_in_the_way_of_a_whole_one(place: Place, process: FakeProcess) -> None:
    told = refused(place(desktop(process)), "--gpus", "1", "--timeout", "0")
    assert f"(pid 1) with {process.memory // MIB} MiB on gpu 0" in told
    assert "[gpus] ignore" in told
    assert "[gpus] display" in told


def test_a_request_for_the_size_by_which_a_gpu_is_sold_is_told_of_whole_ones(place: Place) -> None:
    machine = place(desktop())
    assert "gpus=1 without gpu_mem asks for whole ones" in refused(machine, "--gpu-mem", "24")
    assert "without gpu_mem" not in refused(machine, "--gpu-mem", "40")

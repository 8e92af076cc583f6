"""What is used of each card, read through the real binding over both doubles."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tests.support.nvml_stub.machines as fake
from tests.support.nvml_stub.library import environment
from tests.support.nvml_stub.machines import GIB, MIB, UNTOLD, FakeDevice, FakeProcess, Machine, Observe

from prefect_slots.detect.gpu.nvml import Nvml
from prefect_slots.detect.gpu.usage import DeviceUse, UseReading, query_use

A = FakeDevice(
    uuid="GPU-a", used=3 * GIB, processes=(FakeProcess(pid=7, memory=1 * GIB), FakeProcess(pid=8, memory=2 * GIB))
)
B = FakeDevice(uuid="GPU-b")
READ_A = DeviceUse(uuid="GPU-a", used=3 * GIB, processes={7: 1 * GIB, 8: 2 * GIB})
READ_B = DeviceUse(uuid="GPU-b", used=0, processes={})

Use = Callable[[Machine], UseReading]


@pytest.fixture
def use(observe: Observe) -> Use:
    return lambda machine: observe(machine).use


def test_memory_and_processes_of_each_card_are_read(use: Use):
    assert use(Machine(cards=(A, B))) == UseReading(devices=(READ_A, READ_B))


def test_an_old_driver_tells_processes_by_its_older_call_and_counts_its_own_part_as_used(use: Use):
    assert use(Machine(old=True, cards=(A,))).devices == (replace(READ_A, used=3 * GIB + 512 * MIB),)


def test_a_process_that_draws_and_computes_is_counted_once(use: Use):
    listed = tuple(FakeProcess(pid=7, memory=1 * GIB, kind=kind) for kind in ("compute", "graphics", "mps"))
    assert use(Machine(cards=(replace(A, processes=listed),))).devices[0].processes == {7: 1 * GIB}


def test_processes_of_every_list_are_read(use: Use):
    listed = tuple(
        FakeProcess(pid=pid, memory=pid * MIB, kind=kind) for pid, kind in ((1, "compute"), (2, "graphics"), (3, "mps"))
    )
    assert use(Machine(cards=(replace(A, processes=listed),))).devices[0].processes == {
        1: 1 * MIB,
        2: 2 * MIB,
        3: 3 * MIB,
    }


def test_a_memory_that_is_not_told_is_unknown_unless_another_list_tells_it(use: Use):
    listed = (
        FakeProcess(pid=7, memory=UNTOLD),
        FakeProcess(pid=8, memory=UNTOLD),
        FakeProcess(pid=8, memory=5 * MIB, kind="graphics"),
    )
    assert use(Machine(cards=(replace(A, processes=listed),))).devices[0].processes == {7: None, 8: 5 * MIB}


@pytest.mark.parametrize("code", [fake.UNKNOWN, fake.NOT_SUPPORTED, fake.NO_PERMISSION])
def test_processes_that_the_driver_does_not_tell_are_unknown_and_memory_stays_known(use: Use, code: int):
    (device,) = use(Machine(cards=(replace(A, processes_error=code),))).devices
    assert (device.used, device.processes) == (3 * GIB, None)
    assert "its processes cannot be read" in device.why


@pytest.mark.parametrize(("code", "told"), [(fake.NOT_SUPPORTED, True), (fake.UNKNOWN, False)])
def test_a_card_that_does_not_draw_has_nobody_who_draws(use: Use, code: int, told: bool):
    (device,) = use(Machine(cards=(replace(A, graphics_error=code),))).devices
    assert device.processes == (READ_A.processes if told else None)


@pytest.mark.parametrize("mode", [2, 3, 4])
def test_a_virtual_card_does_not_tell_its_processes(use: Use, mode: int):
    (device,) = use(Machine(cards=(replace(A, virtualization=mode),))).devices
    assert (device.used, device.processes, device.why) == (3 * GIB, None, "a virtual card does not tell its processes")


def test_a_card_that_is_passed_through_is_a_card(use: Use):
    assert use(Machine(cards=(replace(A, virtualization=1),))).devices == (READ_A,)


@pytest.mark.parametrize(("code", "told"), [(fake.NOT_SUPPORTED, True), (fake.UNKNOWN, False)])
def test_a_card_of_which_it_cannot_be_told_whether_it_is_virtual_is_not_believed(use: Use, code: int, told: bool):
    (device,) = use(Machine(cards=(replace(A, virtualization_error=code),))).devices
    assert (device.processes is not None) == told


def test_a_card_without_memory_of_its_own_tells_processes_only(use: Use):
    assert use(Machine(cards=(replace(A, total=0, reserved=0),))).devices == (replace(READ_A, used=None),)


def test_a_memory_that_fails_is_unknown_and_says_why(use: Use):
    (device,) = use(Machine(cards=(replace(A, v2_error=fake.GPU_IS_LOST),))).devices
    assert (device.used, device.processes) == (None, {7: 1 * GIB, 8: 2 * GIB})
    assert device.why == "its memory cannot be read: GPU is lost"


def test_instances_are_read_and_their_card_is_not(use: Use):
    inside = FakeDevice(
        uuid="MIG-1", slot=3, total=5 * GIB, reserved=0, used=GIB, processes=(FakeProcess(pid=7, memory=GIB),)
    )
    lost = replace(inside, uuid="MIG-2", slot=1, uuid_error=fake.GPU_IS_LOST)
    card = FakeDevice(uuid="GPU-m", mig=1, pending=1, slots=7, v2_error=fake.NO_PERMISSION, instances=(lost, inside))
    assert use(Machine(cards=(card, B))).devices == (
        DeviceUse(uuid="MIG-1", used=GIB, processes={7: GIB}),
        READ_B,
    )


@pytest.mark.parametrize("call", ["handle_error", "uuid_error", "mig_error"])
def test_a_lost_card_does_not_lose_the_others(use: Use, call: str):
    assert use(Machine(cards=(replace(A, **{call: fake.GPU_IS_LOST}), B))).devices == (READ_B,)


@pytest.mark.parametrize("machine", [Machine(init=fake.LIB_RM_VERSION_MISMATCH), Machine(count=fake.UNKNOWN)])
def test_a_driver_that_does_not_answer_says_nothing_of_any_card(use: Use, machine: Machine):
    reading = use(machine)
    assert reading.devices == ()
    assert reading.failure is not None


def test_a_binding_that_cannot_be_imported_is_told():
    def load() -> Nvml:
        raise ImportError("No module named 'pynvml'")

    reading = query_use(load)
    assert reading.failure is not None
    assert "No module named" in reading.failure.words


def test_the_stub_tells_of_another_machine_after_each_init_when_it_reads_a_file(nvml_library: Path, tmp_path: Path):
    file = tmp_path / "machine"
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from prefect_slots.detect.gpu.usage import query_use\n"
        "for text in sys.argv[2:]:\n"
        "    Path(sys.argv[1]).write_text(text)\n"
        "    print([(device.uuid, device.used) for device in query_use().devices])\n"
    )
    machines = [Machine(cards=(A, B)).text(), Machine(cards=(replace(B, used=9),)).text()]
    env = {**environment(nvml_library, Machine()), "NVML_STUB_FILE": str(file)}
    command = [sys.executable, "-c", code, str(file), *machines]
    child = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert child.stdout.splitlines() == [f"[('GPU-a', {3 * GIB}), ('GPU-b', 0)]", "[('GPU-b', 9)]"]

"""One list of machines and what is to be seen of each, for every way to tell the binding of a machine.

`SCENARIOS` are made-up machines with what each must come to. `laws` holds for what is seen of any machine, a real one
too, of which nobody knows beforehand what there is to see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import tests.support.nvml_stub.machines as fake
from tests.support.nvml_stub.machines import GIB, MIB, UNTOLD, FakeDevice, FakeProcess, Machine, Observed

from prefect_slots.detect.detector import Answer
from prefect_slots.detect.gpu.nvidia import DeviceReading, interpret_nvml
from prefect_slots.detect.gpu.usage import foreign_use
from prefect_slots.model.declaration import GpuRules
from prefect_slots.system.container import Surroundings

HOST_MIB = 65536
OWN = 100
"""The process that is taken for ours."""

_A = FakeDevice(uuid="GPU-aaaa")
_B = FakeDevice(uuid="GPU-bbbb", name="NVIDIA H100", total=80 * GIB, reserved=1 * GIB)
_SLICE = FakeDevice(uuid="MIG-1", name="NVIDIA A100 MIG 1g.5gb", total=5 * GIB, reserved=0)
_MIG = FakeDevice(
    uuid="GPU-mmmm",
    mig=1,
    pending=1,
    slots=7,
    v1_error=fake.NO_PERMISSION,
    v2_error=fake.NO_PERMISSION,
    processes_error=fake.NO_PERMISSION,
    instances=(_SLICE, replace(_SLICE, uuid="MIG-2", slot=4, used=GIB, processes=(FakeProcess(pid=7, memory=GIB),))),
)
_BUSY = replace(
    _A,
    used=9 * GIB,
    processes=(
        FakeProcess(pid=OWN, memory=4 * GIB),
        FakeProcess(pid=7, memory=2 * GIB, kind="graphics"),
        FakeProcess(pid=7, memory=2 * GIB),
        FakeProcess(pid=8, memory=3 * GIB, kind="mps"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A machine, and what must be seen of it.

    Attributes:
        cells: MiB that each cell offers.
        unknown: Resources and cells that must be called unknown.
        told: Words, each of which some finding must hold.
        foreign: MiB that others use of each cell, `None` where that cannot be told.
    """

    machine: Machine
    state: str = "gpus"
    cells: Mapping[str, int] = field(default_factory=dict[str, int])
    unknown: frozenset[str] = frozenset()
    told: tuple[str, ...] = ()
    foreign: Mapping[str, int | None] = field(default_factory=dict[str, "int | None"])


SCENARIOS: Mapping[str, Scenario] = {
    "two cards": Scenario(
        machine=Machine(cards=(_A, _B)),
        cells={"GPU-aaaa": 24064, "GPU-bbbb": 80896},
        foreign={"GPU-aaaa": 0, "GPU-bbbb": 0},
    ),
    "no card": Scenario(machine=Machine()),
    "no library": Scenario(machine=Machine(init=fake.LIBRARY_NOT_FOUND), state="absent", told=("no NVIDIA card",)),
    "driver not loaded": Scenario(machine=Machine(init=fake.DRIVER_NOT_LOADED), state="absent", told=("no NVIDIA",)),
    "driver mismatch": Scenario(
        machine=Machine(init=fake.LIB_RM_VERSION_MISMATCH, cards=(_A,)),
        state="unknown",
        unknown=frozenset({"gpu_mem"}),
        told=("cannot be read",),
    ),
    "MIG with a gap": Scenario(
        machine=Machine(cards=(_MIG, _A)),
        cells={"MIG-1": 5120, "MIG-2": 5120, "GPU-aaaa": 24064},
        foreign={"MIG-1": 0, "MIG-2": 1024, "GPU-aaaa": 0},
    ),
    "MIG without instances": Scenario(
        machine=Machine(cards=(replace(_MIG, instances=()), _A)),
        cells={"GPU-aaaa": 24064},
        told=("has no instance",),
        foreign={"GPU-aaaa": 0},
    ),
    "unified memory, not supported": Scenario(
        machine=Machine(cards=(replace(_BUSY, v1_error=fake.NOT_SUPPORTED, v2_error=fake.NOT_SUPPORTED),)),
        cells={"GPU-aaaa": HOST_MIB},
        told=("shares the host's memory",),
        foreign={"GPU-aaaa": 5120},
    ),
    "unified memory, total 0": Scenario(
        machine=Machine(cards=(replace(_A, total=0, reserved=0),)),
        cells={"GPU-aaaa": HOST_MIB},
        told=("shares the host's memory",),
        foreign={"GPU-aaaa": 0},
    ),
    "no permission for one card": Scenario(
        machine=Machine(cards=(replace(_A, handle_error=fake.NO_PERMISSION), _B)),
        cells={"GPU-bbbb": 80896},
        unknown=frozenset({"gpu_mem"}),
        told=("card 0",),
        foreign={"GPU-bbbb": 0},
    ),
    "no permission for its memory": Scenario(
        machine=Machine(cards=(replace(_A, v2_error=fake.NO_PERMISSION), _B)),
        cells={"GPU-bbbb": 80896},
        unknown=frozenset({"GPU-aaaa"}),
        told=("cannot be read",),
        foreign={"GPU-aaaa": None, "GPU-bbbb": 0},
    ),
    "lost card": Scenario(
        machine=Machine(cards=(_B, replace(_A, name_error=fake.GPU_IS_LOST, v2_error=fake.GPU_IS_LOST))),
        cells={"GPU-bbbb": 80896},
        unknown=frozenset({"GPU-aaaa"}),
        told=("GPU is lost",),
        foreign={"GPU-bbbb": 0, "GPU-aaaa": None},
    ),
    "lost card that does not tell its name": Scenario(
        machine=Machine(cards=(replace(_A, uuid_error=fake.GPU_IS_LOST), _B)),
        cells={"GPU-bbbb": 80896},
        unknown=frozenset({"gpu_mem"}),
        told=("GPU is lost",),
        foreign={"GPU-bbbb": 0},
    ),
    "prohibited and exclusive": Scenario(
        machine=Machine(cards=(replace(_A, mode=2), replace(_B, mode=3))),
        cells={"GPU-bbbb": 80896},
        told=("PROHIBITED", "EXCLUSIVE_PROCESS"),
        foreign={"GPU-aaaa": 0, "GPU-bbbb": 0},
    ),
    "old driver": Scenario(
        machine=Machine(old=True, cards=(_BUSY,)),
        cells={"GPU-aaaa": 24576},
        told=("does not tell how much memory it keeps",),
        # What the driver keeps is in its number, and is not ours.
        foreign={"GPU-aaaa": 5 * 1024 + 512},
    ),
    # C14: memory and UUID were read.
    "neither name nor MIG mode": Scenario(
        machine=Machine(cards=(replace(_A, name_error=fake.UNKNOWN, mig_error=2),)),
        cells={"GPU-aaaa": 24064},
        foreign={"GPU-aaaa": 0},
    ),
    "no compute mode": Scenario(
        machine=Machine(cards=(replace(_A, name="\udcf8\udcffNVIDIA", mode_error=fake.UNKNOWN),)),
        cells={"GPU-aaaa": 24064},
        told=("compute mode cannot be read",),
        foreign={"GPU-aaaa": 0},
    ),
    # C28: the good card is offered.
    "two cards with one UUID": Scenario(
        machine=Machine(cards=(_A, _A, _B)),
        cells={"GPU-bbbb": 80896},
        unknown=frozenset({"GPU-aaaa"}),
        told=("2 cards have this identity",),
        foreign={"GPU-aaaa": 0, "GPU-bbbb": 0},
    ),
    "two cards with one UUID, one unreadable": Scenario(
        machine=Machine(cards=(replace(_A, v2_error=fake.UNKNOWN), _A, _B)),
        cells={"GPU-bbbb": 80896},
        unknown=frozenset({"GPU-aaaa"}),
        told=("cannot be read",),
        foreign={"GPU-aaaa": 0, "GPU-bbbb": 0},
    ),
    "two instances with one UUID": Scenario(
        machine=Machine(cards=(replace(_MIG, instances=(_SLICE, replace(_SLICE, slot=1))), _A)),
        cells={"GPU-aaaa": 24064},
        unknown=frozenset({"MIG-1"}),
        told=("2 cards have this identity",),
        foreign={"MIG-1": 0, "GPU-aaaa": 0},
    ),
    "a card without a UUID": Scenario(
        machine=Machine(cards=(replace(_A, uuid=""), _B)),
        cells={"GPU-bbbb": 80896},
        unknown=frozenset({"gpu_mem"}),
        told=("its UUID is ''",),
        foreign={"GPU-bbbb": 0},
    ),
    "processes": Scenario(machine=Machine(cards=(_BUSY,)), cells={"GPU-aaaa": 24064}, foreign={"GPU-aaaa": 5 * 1024}),
    "processes that are not told": Scenario(
        machine=Machine(cards=(replace(_BUSY, processes_error=fake.UNKNOWN),)),
        cells={"GPU-aaaa": 24064},
        foreign={"GPU-aaaa": None},
    ),
    "a memory of ours that is not told": Scenario(
        machine=Machine(cards=(replace(_BUSY, processes=(FakeProcess(pid=OWN, memory=UNTOLD),)),)),
        cells={"GPU-aaaa": 24064},
        foreign={"GPU-aaaa": None},
    ),
    "virtual card": Scenario(
        machine=Machine(cards=(replace(_BUSY, virtualization=2),)),
        cells={"GPU-aaaa": 24064},
        foreign={"GPU-aaaa": None},
    ),
}


def judged(observed: Observed) -> Answer:
    """Return what the cards that were seen offer, by no rules."""
    return interpret_nvml(observed.cards, GpuRules(), {}, lambda: HOST_MIB)


def foreign(observed: Observed, own: int = OWN) -> dict[str, int | None]:
    """Return what others than `own` use of each device that was seen."""
    return {device.uuid: foreign_use(device, own={own}, around=Surroundings()).mib for device in observed.use.devices}


def laws(observed: Observed) -> None:
    """Assert what is true of every machine."""
    answer = judged(observed)
    offered = {cell.key: cell.capacity for resource in answer.resources for cell in resource.cells}
    readable = {device.uuid: device for device in _devices(observed) if device.failure is None}
    twice = {uuid for uuid, count in Counter(device.uuid for device in _devices(observed)).items() if count > 1}
    assert not offered.keys() & twice, "one of several cards that cannot be told apart is offered"
    assert len(offered) == sum(len(resource.cells) for resource in answer.resources), "a cell is offered twice"
    assert offered.keys() <= readable.keys(), "a cell is offered that could not be read"
    assert not offered.keys() & answer.unknown_cells, "a cell is offered and unknown"
    for key, capacity in offered.items():
        memory = readable[key].memory
        assert 0 < capacity <= (HOST_MIB if memory is None else memory.total // MIB), f"{key} offers {capacity}"
    parents = {card.uuid for card in observed.cards.gpus if card.instances is not None}
    assert not offered.keys() & parents, "a card in MIG mode is offered beside its instances"
    if observed.cards.state == "unknown":
        assert answer.unknown == {"gpu_mem"}, "a driver that cannot tell is taken for a machine without cards"
        assert answer.findings, "nobody is told"
    used = {device.uuid: device for device in observed.use.devices}
    assert offered.keys() <= used.keys(), "of a card that is offered nobody knows what is used"
    for key, device in used.items():
        if device.used is not None and key in readable and (memory := readable[key].memory) is not None:
            assert 0 <= device.used <= memory.total, f"{key} uses {device.used} of {memory.total}"


def _devices(observed: Observed) -> Iterator[DeviceReading]:
    for card in observed.cards.gpus:
        yield card
        yield from card.instances or ()

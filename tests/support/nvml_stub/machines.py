"""Made-up machines for NVML: one description, told by the C stub library and by a pure-Python double alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from prefect_slots.detect.gpu.nvidia import NvmlReading
from prefect_slots.detect.gpu.usage import UseReading

GIB = 2**30
MIB = 2**20

UNINITIALIZED, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, INSUFFICIENT_SIZE, DRIVER_NOT_LOADED = 1, 3, 4, 6, 7, 9
LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND, GPU_IS_LOST, LIB_RM_VERSION_MISMATCH = 12, 13, 15, 18
ARGUMENT_VERSION_MISMATCH, GPU_NOT_FOUND, UNKNOWN = 25, 28, 999

UNTOLD = 2**64 - 1
"""What the library says instead of a process's memory that it cannot tell."""


@dataclass(frozen=True, kw_only=True)
class FakeProcess:
    """A process on a device; `kind` is the list that it stands in: `compute`, `graphics` or `mps`."""

    pid: int
    memory: int
    kind: str = "compute"

    def line(self) -> str:
        return f"process\tpid={self.pid}\tmemory={self.memory}\tkind={self.kind}"


@dataclass(frozen=True, kw_only=True)
class FakeDevice:
    """A card, or an instance at `slot`; `*_error` is the code that the call returns instead of answering."""

    uuid: str = ""
    name: str = "NVIDIA RTX A5000"
    total: int = 24 * GIB
    reserved: int = 512 * MIB
    used: int = 0
    mode: int = 0
    mig: int = 0
    pending: int = 0
    slots: int = 0
    slot: int = 0
    gi: int = 0
    ci: int = 0
    virtualization: int = 0
    sessions: int = 0
    capability: int = 0
    handle_error: int = 0
    uuid_error: int = 0
    name_error: int = 0
    v1_error: int = 0
    v2_error: int = 0
    mode_error: int = 0
    mig_error: int = 0
    slots_error: int = 0
    ids_error: int = 0
    processes_error: int = 0
    graphics_error: int = 0
    virtualization_error: int = 0
    sessions_error: int = 0
    instances: tuple[FakeDevice, ...] = ()
    processes: tuple[FakeProcess, ...] = ()

    def lines(self, kind: str) -> list[str]:
        fields = asdict(self)
        del fields["instances"], fields["processes"]
        own = "\t".join([kind, *(f"{key}={value}" for key, value in fields.items())])
        inside = [line for instance in self.instances for line in instance.lines("mig")]
        return [own, *(process.line() for process in self.processes), *inside]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What NVML is to tell; an old driver has neither the third version of its process calls nor memory version 2.

    `hang` is the seconds that it takes to answer at all; the C library's only.
    """

    cards: tuple[FakeDevice, ...] = ()
    init: int = 0
    hang: int = 0
    count: int = 0
    old: bool = False

    def text(self) -> str:
        """Write the machine as the C stub reads it."""
        lines = [f"init={self.init}", f"hang={self.hang}", f"count={self.count}"]
        for card in self.cards:
            lines.extend(card.lines("card"))
        return "\n".join(lines)


@dataclass(frozen=True)
class Observed:
    """What was read of one machine: its cards, and what is used of them."""

    cards: NvmlReading
    use: UseReading


Observe = Callable[[Machine], Observed]
"""Reads a machine through the real binding."""

Read = Callable[[Machine], NvmlReading]
"""Reads its cards only."""

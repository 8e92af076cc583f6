"""Made-up machines for NVML: one description, told by the C stub library and by a pure-Python double alike."""
# The double's methods take what the library's functions take.
# ruff: noqa: ARG002

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from typing import Any

from prefect_slots.detect.nvml import NvmlReading

GIB = 2**30
MIB = 2**20

UNINITIALIZED, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, DRIVER_NOT_LOADED = 1, 3, 4, 6, 9
LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND, GPU_IS_LOST, LIB_RM_VERSION_MISMATCH = 12, 13, 15, 18
ARGUMENT_VERSION_MISMATCH, GPU_NOT_FOUND, UNKNOWN = 25, 28, 999


@dataclass(frozen=True, kw_only=True)
class FakeDevice:
    """A card, or an instance at `slot`; `*_error` is the code that the call returns instead of answering."""

    uuid: str = ""
    name: str = "NVIDIA RTX A5000"
    total: int = 24 * GIB
    reserved: int = 512 * MIB
    mode: int = 0
    mig: int = 0
    pending: int = 0
    slots: int = 0
    slot: int = 0
    handle_error: int = 0
    uuid_error: int = 0
    name_error: int = 0
    v1_error: int = 0
    v2_error: int = 0
    mode_error: int = 0
    mig_error: int = 0
    slots_error: int = 0
    instances: tuple[FakeDevice, ...] = ()

    def line(self, kind: str) -> str:
        fields = asdict(self)
        del fields["instances"]
        return "\t".join([kind, *(f"{key}={value}" for key, value in fields.items())])


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What NVML is to tell."""

    cards: tuple[FakeDevice, ...] = ()
    init: int = 0
    count: int = 0

    def text(self) -> str:
        """Write the machine as the C stub reads it."""
        lines = [f"init={self.init}", f"count={self.count}"]
        for card in self.cards:
            lines.append(card.line("card"))
            lines.extend(instance.line("mig") for instance in card.instances)
        return "\n".join(lines)


Read = Callable[[Machine], NvmlReading]
"""Reads a machine through the real binding."""

_target = attrgetter("_obj")


@dataclass
class NvmlDouble:
    """Stands for the loaded library in `pynvml.nvmlLib`; a call that is missing here is missing in the driver."""

    machine: Machine
    initialized: int = 0
    _devices: list[FakeDevice] = field(default_factory=list[FakeDevice])

    def _answer(self, error: int) -> int:
        return error if self.initialized else UNINITIALIZED

    def _of(self, handle: Any) -> FakeDevice:
        return self._devices[ctypes.cast(handle, ctypes.c_void_p).value or 0]

    def _hand_out(self, device: FakeDevice, handle: Any) -> int:
        # Handle 0 is a null pointer, which no library gives out.
        self._devices = self._devices or [FakeDevice()]
        self._devices.append(device)
        pointer = ctypes.cast(len(self._devices) - 1, type(_target(handle)))
        ctypes.pointer(_target(handle))[0] = pointer
        return self._answer(device.handle_error)

    def nvmlInitWithFlags(self, flags: int) -> int:
        if not self.machine.init:
            self.initialized += 1
        return self.machine.init

    def nvmlShutdown(self) -> int:
        answer = self._answer(0)
        self.initialized = max(0, self.initialized - 1)
        return answer

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        _target(count).value = len(self.machine.cards)
        return self._answer(self.machine.count)

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        return self._hand_out(self.machine.cards[index.value], handle)

    def nvmlDeviceGetUUID(self, handle: Any, buffer: Any, size: Any) -> int:
        buffer.value = self._of(handle).uuid.encode()
        return self._answer(self._of(handle).uuid_error)

    def nvmlDeviceGetName(self, handle: Any, buffer: Any, size: Any) -> int:
        buffer.value = self._of(handle).name.encode()
        return self._answer(self._of(handle).name_error)

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        device, told = self._of(handle), _target(memory)
        told.total, told.used, told.free = device.total, device.reserved, device.total - device.reserved
        return self._answer(device.v1_error)

    def nvmlDeviceGetMemoryInfo_v2(self, handle: Any, memory: Any) -> int:
        device, told = self._of(handle), _target(memory)
        if told.version != 2 << 24 | ctypes.sizeof(told):
            return self._answer(ARGUMENT_VERSION_MISMATCH)
        told.total, told.reserved, told.used, told.free = (
            device.total,
            device.reserved,
            0,
            device.total - device.reserved,
        )
        return self._answer(device.v2_error)

    def nvmlDeviceGetComputeMode(self, handle: Any, mode: Any) -> int:
        _target(mode).value = self._of(handle).mode
        return self._answer(self._of(handle).mode_error)

    def nvmlDeviceGetMigMode(self, handle: Any, now: Any, pending: Any) -> int:
        _target(now).value, _target(pending).value = self._of(handle).mig, self._of(handle).pending
        return self._answer(self._of(handle).mig_error)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any, count: Any) -> int:
        _target(count).value = self._of(handle).slots
        return self._answer(self._of(handle).slots_error)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, slot: Any, instance: Any) -> int:
        for device in self._of(handle).instances:
            if device.slot == slot.value:
                return self._hand_out(device, instance)
        return self._answer(NOT_FOUND)

"""A pure-Python stand-in for the loaded `libnvidia-ml`, under the real binding."""
# The double's methods take what the library's functions take.
# ruff: noqa: ARG002

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from tests.support.nvml_stub.machines import (
    ARGUMENT_VERSION_MISMATCH,
    INSUFFICIENT_SIZE,
    NOT_FOUND,
    NOT_SUPPORTED,
    UNINITIALIZED,
    FakeDevice,
    Machine,
)

_target = attrgetter("_obj")
_NEWER = (
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
)


@dataclass
class NvmlDouble:
    """Stands for the loaded library in `pynvml.nvmlLib`; a call that is missing here is missing in the driver."""

    machine: Machine
    initialized: int = 0
    _devices: list[FakeDevice] = field(default_factory=list[FakeDevice])

    def __getattribute__(self, name: str) -> Any:
        if name in _NEWER and object.__getattribute__(self, "machine").old:
            raise AttributeError(f"undefined symbol: {name}")
        return object.__getattribute__(self, name)

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
        buffer.value = self._of(handle).uuid.encode(errors="surrogateescape")
        return self._answer(self._of(handle).uuid_error)

    def nvmlDeviceGetName(self, handle: Any, buffer: Any, size: Any) -> int:
        buffer.value = self._of(handle).name.encode(errors="surrogateescape")
        return self._answer(self._of(handle).name_error)

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        device, told = self._of(handle), _target(memory)
        told.total, told.used = device.total, device.reserved + device.used
        told.free = told.total - told.used
        return self._answer(device.v1_error)

    def nvmlDeviceGetMemoryInfo_v2(self, handle: Any, memory: Any) -> int:
        device, told = self._of(handle), _target(memory)
        if told.version != 2 << 24 | ctypes.sizeof(told):
            return self._answer(ARGUMENT_VERSION_MISMATCH)
        told.total, told.reserved, told.used = device.total, device.reserved, device.used
        told.free = told.total - told.reserved - told.used
        return self._answer(device.v2_error)

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> int:
        capability = self._of(handle).capability
        _target(major).value, _target(minor).value = divmod(capability, 10)
        return self._answer(0 if capability else NOT_SUPPORTED)

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

    def nvmlDeviceGetGpuInstanceId(self, handle: Any, number: Any) -> int:
        _target(number).value = self._of(handle).gi
        return self._answer(self._of(handle).ids_error)

    def nvmlDeviceGetComputeInstanceId(self, handle: Any, number: Any) -> int:
        _target(number).value = self._of(handle).ci
        return self._answer(self._of(handle).ids_error)

    def nvmlDeviceGetVirtualizationMode(self, handle: Any, mode: Any) -> int:
        _target(mode).value = self._of(handle).virtualization
        return self._answer(self._of(handle).virtualization_error)

    def nvmlDeviceGetEncoderStats(self, handle: Any, sessions: Any, fps: Any, latency: Any) -> int:
        _target(sessions).value = self._of(handle).sessions
        return self._answer(self._of(handle).sessions_error)

    def _list(self, handle: Any, count: Any, entries: Any, kind: str) -> int:
        device = self._of(handle)
        if error := device.processes_error or (device.graphics_error if kind == "graphics" else 0):
            return self._answer(error)
        listed = [process for process in device.processes if process.kind == kind]
        room, _target(count).value = _target(count).value, len(listed)
        if room < len(listed):
            return self._answer(INSUFFICIENT_SIZE)
        for entry, process in zip(entries or (), listed, strict=False):
            entry.pid, entry.usedGpuMemory = process.pid, process.memory
            entry.gpuInstanceId, entry.computeInstanceId = device.gi, device.ci
        return self._answer(0)

    def nvmlDeviceGetComputeRunningProcesses_v2(self, handle: Any, count: Any, entries: Any) -> int:
        return self._list(handle, count, entries, "compute")

    def nvmlDeviceGetGraphicsRunningProcesses_v2(self, handle: Any, count: Any, entries: Any) -> int:
        return self._list(handle, count, entries, "graphics")

    def nvmlDeviceGetMPSComputeRunningProcesses_v2(self, handle: Any, count: Any, entries: Any) -> int:
        return self._list(handle, count, entries, "mps")

    nvmlDeviceGetComputeRunningProcesses_v3 = nvmlDeviceGetComputeRunningProcesses_v2
    nvmlDeviceGetGraphicsRunningProcesses_v3 = nvmlDeviceGetGraphicsRunningProcesses_v2
    nvmlDeviceGetMPSComputeRunningProcesses_v3 = nvmlDeviceGetMPSComputeRunningProcesses_v2

"""NVIDIA's GPUs and MIG instances by NVML: a reading of them, and their offer of `gpu_mem`.

`query_nvml` only reads and keeps errors as data; `interpret_nvml` is pure. A GPU is known by its UUID. "No NVIDIA here"
is an answer; "cannot tell" is another one and never becomes zero GPUs. Memory in use is read by `usage`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from prefect_slots.detect.detector import Answer, Scene, unreadable
from prefect_slots.detect.gpu import nvml as nvml_api
from prefect_slots.detect.gpu.cuda_visible import VARIABLE, Device, Visible, interpret_visible
from prefect_slots.detect.gpu.nvml import Failure, Nvml, ask, error_code, failure_of, load_nvml, text_of
from prefect_slots.detect.gpu.offer import GpuOffer
from prefect_slots.detect.host import query_memory
from prefect_slots.model import GPU_MEM, MIB, Finding, GpuRules, bytes_available, format_amount
from prefect_slots.system.container import Surroundings, query_surroundings

_NOWHERE_SPECIAL = Surroundings()
_GPU_MEM = frozenset({GPU_MEM})


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A device's memory in bytes. `reserved` is the driver's part, `None` where this driver does not tell it."""

    total: int
    reserved: int | None


@dataclass(frozen=True, kw_only=True)
class DeviceReading:
    """A reading of one GPU or MIG instance.

    Attributes:
        index: The GPU's NVML index, or the instance's slot on its GPU.
        uuid: `None` where not even that could be read.
        name: Empty if it could not be read.
        compute_mode: `None` if it could not be read.
        compute_capability: CUDA's, `"8.6"`; empty if it could not be read. An instance has its GPU's.
        memory: `None` for a GPU that shares the host's memory, a MIG parent, or one that failed.
        instances: `None` for a GPU that is not in MIG mode.
        mig_changing: MIG mode changes at the next reset.
        failure: Why the rest could not be read.
        place: The numbers of an instance's GPU instance and of its part of that; `None` if they could not be read.
    """

    index: int
    uuid: str | None = None
    name: str = ""
    memory: Memory | None = None
    compute_mode: int | None = 0
    compute_capability: str = ""
    instances: tuple[DeviceReading, ...] | None = None
    mig_changing: bool = False
    failure: Failure | None = None
    place: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class NvmlReading:
    """NVML's answer about the machine: GPUs, none here, or that it cannot tell."""

    state: Literal["gpus", "absent", "unknown"]
    gpus: tuple[DeviceReading, ...] = ()
    failure: Failure | None = None


def query_nvml(load: Callable[[], Nvml] = load_nvml) -> NvmlReading:
    """Read every GPU of the machine. Never raises: errors are in the reading."""
    started = False
    try:
        with nvml_api.opened(load) as nvml:
            started = True
            gpus = tuple(_read_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
            return NvmlReading(state="gpus", gpus=gpus)
    except Exception as error:
        # The same codes of a later call mean that the driver cannot tell, not that there is no GPU.
        absent = not started and error_code(error) in nvml_api.NO_NVIDIA_HERE
        return NvmlReading(state="absent" if absent else "unknown", failure=failure_of(error))


def _read_gpu(nvml: Nvml, index: int) -> DeviceReading:
    uuid, in_mig_mode = None, 0
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = nvml_api.read_uuid(nvml, handle)
        name = text_of(nvml_api.read_beside(nvml.nvmlDeviceGetName, handle, otherwise=""))
        in_mig_mode, after_reset = nvml_api.read_mig_mode(nvml, handle)
        return DeviceReading(
            index=index,
            uuid=uuid,
            name=name,
            # A MIG parent's memory is its instances', and may be closed to us when theirs is not.
            memory=None if in_mig_mode else _read_memory(nvml, handle),
            compute_mode=_read_compute_mode(nvml, handle),
            compute_capability=_read_compute_capability(nvml, handle),
            instances=_read_instances(nvml, handle) if in_mig_mode else None,
            mig_changing=in_mig_mode != after_reset,
        )
    except Exception as error:
        return DeviceReading(index=index, uuid=uuid, instances=() if in_mig_mode else None, failure=failure_of(error))


def _read_compute_mode(nvml: Nvml, gpu: object) -> int | None:
    return nvml_api.read_beside(partial(ask, nvml.nvmlDeviceGetComputeMode, otherwise=0), gpu, otherwise=None)


def _read_compute_capability(nvml: Nvml, gpu: object) -> str:
    return ".".join(map(str, nvml_api.read_beside(nvml.nvmlDeviceGetCudaComputeCapability, gpu, otherwise=[])))


def _read_instances(nvml: Nvml, gpu: object) -> tuple[DeviceReading, ...]:
    slots = range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu))
    return tuple(reading for slot in slots if (reading := _read_instance(nvml, gpu, slot)) is not None)


def _read_instance(nvml: Nvml, gpu: object, slot: int) -> DeviceReading | None:
    """Return the instance at `slot`, `None` where there is none; instances may lie behind empty slots."""
    uuid = None
    try:
        handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, slot)
        uuid = nvml_api.read_uuid(nvml, handle)
        name = text_of(nvml_api.read_beside(nvml.nvmlDeviceGetName, handle, otherwise=""))
        memory, place = _read_memory(nvml, handle), _read_place(nvml, handle)
        return DeviceReading(index=slot, uuid=uuid, name=name, memory=memory, place=place)
    except Exception as error:
        if uuid is None and error_code(error) == nvml_api.NOT_FOUND:
            return None
        return DeviceReading(index=slot, uuid=uuid, failure=failure_of(error))


def _read_place(nvml: Nvml, instance: object) -> tuple[int, int] | None:
    try:
        return nvml.nvmlDeviceGetGpuInstanceId(instance), nvml.nvmlDeviceGetComputeInstanceId(instance)
    except Exception:
        # An instance is not lost for want of its numbers.
        return None


def _read_memory(nvml: Nvml, handle: object) -> Memory | None:
    memory = nvml_api.read_memory(nvml, handle)
    return None if memory is None else Memory(total=memory[0], reserved=memory[1])


class NvidiaDetector:
    """Detector of NVIDIA's GPUs and MIG instances, as cells of `gpu_mem`."""

    resources = _GPU_MEM

    def detect(self, scene: Scene) -> Answer:
        """Return the GPUs that NVML lists and `CUDA_VISIBLE_DEVICES` leaves."""
        host_mib = partial(query_memory, scene.root)
        around = query_surroundings(scene.root, scene.env)
        return interpret_nvml(query_nvml(scene.load), scene.gpus, scene.env, host_mib, around)


_COMPUTE_INSTANCE = re.compile(r"\b[0-9]+c\.")
_MPS_VARIABLE = "NVML_MPS_DEVICE_ENUMERATION"


def interpret_nvml(
    reading: NvmlReading,
    rules: GpuRules,
    env: Mapping[str, str],
    host_mib: Callable[[], int],
    around: Surroundings = _NOWHERE_SPECIAL,
) -> Answer:
    """Return the offer of `gpu_mem` of the GPUs that were read.

    Args:
        reading: The result of `query_nvml`.
        rules: Excluded GPUs, and the headroom of each GPU.
        env: The environment of the tasks to come, for `CUDA_VISIBLE_DEVICES`.
        host_mib: Gives the host's memory in MiB, for a GPU that has none of its own; may raise `OSError` or
            `ValueError`.
        around: Signs of WSL, containers, MPS and of GPUs on the PCI bus.
    """
    if reading.failure is not None and reading.state == "absent":
        return _none_here(reading.failure, around)
    if reading.failure is not None:
        problem = f"NVIDIA's cards cannot be read: {reading.failure.words}"
        return unreadable(GPU_MEM, problem, reading.failure.remedy, _GPU_MEM)
    if env.get(_MPS_VARIABLE) == "1":
        problem = f"{_MPS_VARIABLE}=1 makes NVML list the parts of MPS instead of the cards"
        return unreadable(GPU_MEM, problem, "unset it", _GPU_MEM)
    inventory = NvidiaInventory(
        rules=rules, visible=interpret_visible(env, visible_devices(reading)), host_mib=host_mib, mps=around.mps
    )
    for gpu in reading.gpus:
        inventory.add(gpu)
    return inventory.answer(reading)


def visible_devices(reading: NvmlReading) -> tuple[Device, ...]:
    """Return the GPUs as the rules of `CUDA_VISIBLE_DEVICES` name them."""
    return tuple(
        Device(
            index=gpu.index,
            uuid=gpu.uuid,
            name=gpu.name,
            instances=tuple(instance.uuid for instance in gpu.instances or () if instance.uuid is not None),
            # Drivers before R470 named an instance so, and CUDA still understands it.
            legacy_names=tuple(
                (f"MIG-{gpu.uuid}/{instance.place[0]}/{instance.place[1]}", instance.uuid)
                for instance in gpu.instances or ()
                if instance.uuid is not None and instance.place is not None
            ),
        )
        for gpu in reading.gpus
    )


def _none_here(failure: Failure, around: Surroundings) -> Answer:
    """Return the answer without a driver: usually there is no GPU either, but there may be signs of one."""
    finding = Finding(subject=GPU_MEM, problem=f"no NVIDIA card here ({failure.words})", severity="info")
    if around.wsl_library and failure.code == nvml_api.LIBRARY_NOT_FOUND:
        problem = "Windows' NVIDIA driver lies in /usr/lib/wsl/lib, where the loader does not look"
        remedy = "add that folder to /etc/ld.so.conf.d and run ldconfig, or `wsl --update`"
        return unreadable(GPU_MEM, problem, remedy, _GPU_MEM)
    if around.nvidia_gpus:
        problem = f"{around.nvidia_gpus} NVIDIA on the PCI bus, but no driver answers ({failure.words})"
        remedy = "load its driver (`nvidia-smi`); start a container with `--gpus all`"
        finding = replace(finding, problem=problem, remedy=remedy, severity="warning")
    elif around.tegra:
        problem = f"this is a Jetson, and its NVML does not answer ({failure.words})"
        remedy = "JetPack 6 and later have NVML; on older ones declare the card under [[gpus.card]]"
        finding = replace(finding, problem=problem, remedy=remedy, severity="warning")
    return Answer(findings=(finding,))


class NvidiaInventory:
    """The inventory under construction: the offer, and GPUs that cannot be told apart or are broken."""

    def __init__(self, rules: GpuRules, visible: Visible, host_mib: Callable[[], int], *, mps: bool) -> None:
        self._rules = rules
        self._visible = visible
        self._host_mib = host_mib
        self._mps = mps
        self._offer = GpuOffer(rules=rules, findings=list(visible.findings))
        self._nameless: list[Failure] = []
        self._lost_cells: set[str] = set()

    def answer(self, reading: NvmlReading) -> Answer:
        """Return the answer of all GPUs that were added."""
        uuids = {
            device.uuid for gpu in reading.gpus for device in (gpu, *(gpu.instances or ())) if device.uuid is not None
        }
        for prefix in self._rules.exclude:
            if not self._nameless and not any(GpuRules(exclude=(prefix,)).excludes(uuid) for uuid in uuids):
                remedy = "see `nvidia-smi -L` for the UUIDs"
                self._offer.say(prefix, "[gpus] exclude names no card of this machine", remedy)
        return replace(
            self._offer.answer("nvml"),
            unknown=_GPU_MEM if self._nameless else frozenset[str](),
            # Only if all that cannot even be told apart are broken: else one that works may be among them.
            lost=_GPU_MEM if self._nameless and all(map(_is_lost, self._nameless)) else frozenset[str](),
            lost_cells=frozenset(self._lost_cells),
        )

    def add(self, gpu: DeviceReading) -> None:
        """Add a GPU, or its instances in MIG mode."""
        if gpu.uuid is not None and self._rules.excludes(gpu.uuid):
            self._leave_out(gpu, gpu.uuid, "left out by [gpus] exclude")
            return
        concerned = gpu.index in self._visible.gpus or not self._visible.complete
        nameless = next((d.failure for d in (gpu, *(gpu.instances or ())) if d.uuid is None), None)
        if concerned and nameless is not None:
            # Which registered cell this is cannot be told, so none may be taken for gone.
            self._nameless.append(nameless)
            self._failed(f"card {gpu.index}", nameless)
        if concerned and gpu.failure is not None and gpu.instances is not None:
            # The GPU is known, its instances are not.
            self._nameless.append(gpu.failure)
        if gpu.uuid is None:
            return
        if gpu.index not in self._visible.gpus:
            self._leave_out(gpu, gpu.uuid, f"hidden by {VARIABLE}")
            return
        if gpu.failure is not None:
            self._lost(gpu, gpu.uuid, gpu.failure)
        elif gpu.compute_mode == nvml_api.PROHIBITED:
            self._leave_out(gpu, gpu.uuid, "its compute mode is PROHIBITED")
            self._offer.say(gpu.uuid, "its compute mode PROHIBITED offers no slot", "`nvidia-smi -c DEFAULT` opens it")
        else:
            self._usable(gpu, gpu.uuid)

    def _usable(self, gpu: DeviceReading, uuid: str) -> None:
        alone = gpu.compute_mode == nvml_api.EXCLUSIVE_PROCESS and not self._mps
        if alone:
            self._offer.say(
                uuid,
                "its compute mode EXCLUSIVE_PROCESS lets one process use it at a time, so each request takes it whole",
                "`nvidia-smi -c DEFAULT` lets tasks share it",
                severity="info",
            )
        if gpu.compute_mode is None:
            problem = "its compute mode cannot be read, and is taken for DEFAULT: several processes may share it"
            self._offer.say(uuid, problem, "see `nvidia-smi -q -d COMPUTE`", severity="info")
        if gpu.mig_changing:
            self._offer.say(uuid, "its MIG mode changes at the next reset of the card", "reset it, then register again")
        if gpu.instances is None:
            self._add(gpu, gpu, uuid, alone=alone)
            return
        self._leave_out(gpu, uuid, "in MIG mode: its instances are offered instead")
        if not gpu.instances:
            self._offer.say(
                uuid,
                "it is in MIG mode and has no instance, so it offers no slot",
                "`nvidia-smi mig -cgi ... -C` makes one",
            )
        offered: list[DeviceReading] = []
        for instance in gpu.instances:
            if instance.uuid is None:
                continue
            twin = next((other for other in offered if _share_memory(instance, other)), None)
            if self._rules.excludes(instance.uuid):
                self._leave_out(instance, instance.uuid, "left out by [gpus] exclude")
            elif instance.uuid not in self._visible.instances:
                self._leave_out(instance, instance.uuid, f"hidden by {VARIABLE}")
            elif instance.failure is not None:
                self._lost(instance, instance.uuid, instance.failure)
            elif twin is not None:
                self._leave_out(instance, instance.uuid, f"it shares the memory of {twin.uuid}, which is offered")
            else:
                self._add(gpu, instance, instance.uuid, alone=alone)
                offered.append(instance)

    def _add(self, gpu: DeviceReading, device: DeviceReading, uuid: str, *, alone: bool) -> None:
        """Add a cell of the memory of a GPU or its instance, less the driver's part and the headroom."""
        name = device.name or "NVIDIA GPU"
        kept = self._rules.headroom_mib
        taken: list[str] = []
        if device.memory is None:
            try:
                found = mib = self._host_mib()
            except (OSError, ValueError) as error:
                self._lost(device, uuid, failure_of(error))
                return
            taken.append("the host's memory, as its cgroups leave it")
            self._offer.shares_host_memory(uuid)
        else:
            found = bytes_available(device.memory.total)
            mib = bytes_available(device.memory.total - (device.memory.reserved or 0))
            if device.memory.reserved:
                taken.append(f"less {format_amount(found - mib, MIB)} that the driver keeps")
            if device.memory.reserved is None and kept == 0:
                problem = "this driver does not tell how much memory it keeps for itself"
                self._offer.say(uuid, problem, 'set [gpus] headroom = "1GiB", or upgrade the driver to R510 or later')
        if kept:
            taken.append(f"less {format_amount(kept, MIB)} headroom")
        if alone:
            taken.append("one holder at a time (EXCLUSIVE_PROCESS)")
        offered = self._offer.less_headroom(mib)
        self._offer.show(uuid, name, ", ".join(taken), found=found, offered=offered)
        self._offer.add(uuid, name, mib, gpu.index, exclusive=alone, compute_capability=gpu.compute_capability)

    def _leave_out(self, device: DeviceReading, uuid: str, why: str) -> None:
        found = None if device.memory is None else bytes_available(device.memory.total)
        self._offer.show(uuid, device.name, why, found=found)

    def _lost(self, device: DeviceReading, uuid: str, failure: Failure) -> None:
        self._failed(uuid, failure)
        self._offer.unknown_cells.add(uuid)
        if _is_lost(failure):
            self._lost_cells.add(uuid)
        self._leave_out(device, uuid, f"cannot be read: {failure.words}")

    def _failed(self, subject: str, failure: Failure) -> None:
        self._offer.say(subject, f"cannot be read: {failure.words}", failure.remedy, severity="error")


def _share_memory(one: DeviceReading, other: DeviceReading) -> bool:
    """Return whether two instances are compute instances of one GPU instance, whose memory is told for each."""
    if one.place is None or other.place is None:
        # A compute instance that is a part of its GPU instance is named so: `1c.3g.20gb`.
        return one.name == other.name and _COMPUTE_INSTANCE.search(one.name) is not None
    return one.place[0] == other.place[0] and one.place[1] != other.place[1]


def _is_lost(failure: Failure) -> bool:
    return failure.code == nvml_api.GPU_IS_LOST

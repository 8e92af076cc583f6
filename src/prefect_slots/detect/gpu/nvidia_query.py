"""NVIDIA cards and MIG instances, as NVML tells.

Nothing is judged here, and what went wrong is kept as data. A card is known by its UUID. "No NVIDIA here" is an answer;
"cannot tell" is another one and never becomes zero cards. Who uses a card now is not asked.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from prefect_slots.detect.gpu import nvml as nvml_api
from prefect_slots.detect.gpu.nvml import Failure, Nvml, ask, error_code, failure_of, load_nvml, read_memory, text_of
from prefect_slots.system.container import Surroundings

_NOWHERE_SPECIAL: Final = Surroundings()


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A device's memory in bytes. `reserved` is the driver's part, `None` where this driver does not tell it."""

    total: int
    reserved: int | None


@dataclass(frozen=True, kw_only=True)
class DeviceReading:
    """What was read of one card or MIG instance.

    Attributes:
        index: The card's NVML index, or the instance's slot on its card.
        uuid: `None` where not even that could be read.
        memory: `None` for a card that shares the host's memory, a MIG parent, or one that failed.
        instances: `None` for a card that is not in MIG mode.
        mig_changing: Whether MIG mode changes at the next reset.
        failure: Why the rest could not be read.
        legacy_name: What older drivers call an instance.
    """

    index: int
    uuid: str | None = None
    name: str = ""
    memory: Memory | None = None
    compute_mode: int = 0
    instances: tuple[DeviceReading, ...] | None = None
    mig_changing: bool = False
    failure: Failure | None = None
    legacy_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class NvmlReading:
    """What NVML said about the machine: cards, none here, or that it cannot tell."""

    state: Literal["cards", "absent", "unknown"]
    cards: tuple[DeviceReading, ...] = ()
    failure: Failure | None = None


def query_nvml(load: Callable[[], Nvml] = load_nvml) -> NvmlReading:
    """Read every card of the machine. Never raises: what went wrong is in the reading."""
    try:
        nvml = load()
    except ImportError as error:
        return NvmlReading(state="unknown", failure=failure_of(error))
    try:
        nvml.nvmlInit()
    except Exception as error:
        return NvmlReading(
            state="absent" if error_code(error) in nvml_api.NO_NVIDIA_HERE else "unknown", failure=failure_of(error)
        )
    try:
        return NvmlReading(
            state="cards", cards=tuple(_read_card(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        )
    except Exception as error:
        return NvmlReading(state="unknown", failure=failure_of(error))
    finally:
        with suppress(Exception):
            nvml.nvmlShutdown()


def _read_card(nvml: Nvml, index: int) -> DeviceReading:
    uuid, in_mig_mode = None, 0
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = text_of(nvml.nvmlDeviceGetUUID(handle))
        name = text_of(nvml.nvmlDeviceGetName(handle))
        in_mig_mode, after_reset = ask(nvml.nvmlDeviceGetMigMode, handle, otherwise=[0, 0])
        return DeviceReading(
            index=index,
            uuid=uuid,
            name=name,
            # A MIG parent's memory is its instances', and may be closed to us when theirs is not.
            memory=None if in_mig_mode else _read_memory(nvml, handle),
            compute_mode=ask(nvml.nvmlDeviceGetComputeMode, handle, otherwise=0),
            instances=_read_instances(nvml, handle, uuid) if in_mig_mode else None,
            mig_changing=in_mig_mode != after_reset,
        )
    except Exception as error:
        return DeviceReading(index=index, uuid=uuid, instances=() if in_mig_mode else None, failure=failure_of(error))


def _read_instances(nvml: Nvml, card: object, card_uuid: str) -> tuple[DeviceReading, ...]:
    slots = range(nvml.nvmlDeviceGetMaxMigDeviceCount(card))
    return tuple(reading for slot in slots if (reading := _read_instance(nvml, card, card_uuid, slot)) is not None)


def _read_instance(nvml: Nvml, card: object, card_uuid: str, slot: int) -> DeviceReading | None:
    """Return the instance at `slot`, `None` where there is none; instances may lie behind empty slots."""
    uuid = None
    try:
        handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, slot)
        uuid = text_of(nvml.nvmlDeviceGetUUID(handle))
        name = text_of(nvml.nvmlDeviceGetName(handle))
        memory, legacy_name = _read_memory(nvml, handle), _legacy_name(nvml, handle, card_uuid)
        return DeviceReading(index=slot, uuid=uuid, name=name, memory=memory, legacy_name=legacy_name)
    except Exception as error:
        if uuid is None and error_code(error) == nvml_api.NOT_FOUND:
            return None
        return DeviceReading(index=slot, uuid=uuid, failure=failure_of(error))


def _legacy_name(nvml: Nvml, instance: object, card_uuid: str) -> str | None:
    """Return the name that drivers before R470 gave to an instance, which CUDA still understands."""
    try:
        gpu, compute = nvml.nvmlDeviceGetGpuInstanceId(instance), nvml.nvmlDeviceGetComputeInstanceId(instance)
    except Exception:
        # Only a name that somebody may use in CUDA_VISIBLE_DEVICES: an instance is not lost for want of it.
        return None
    return f"MIG-{card_uuid}/{gpu}/{compute}"


def _read_memory(nvml: Nvml, handle: object) -> Memory | None:
    memory = read_memory(nvml, handle)
    return None if memory is None else Memory(total=memory[0], reserved=memory[1])

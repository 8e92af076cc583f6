"""The GPUs that `CUDA_VISIBLE_DEVICES` leaves to a process, by CUDA's own rules.

NVML ignores the variable, so its list must be narrowed to the GPUs that a task could use. Pure: text and GPUs in, GPUs
and findings out.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prefect_slots.model import GPU_MEM, Finding, Severity

VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER_VARIABLE = "CUDA_DEVICE_ORDER"

_NUMBER = re.compile(r"[+]?[0-9]+")
# Usual ways to write that no GPU is to be used; any other entry that names none is a mistake.
_NONE = frozenset({"", "-1", "none", "nodevfiles"})


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU as NVML lists it; `uuid` is `None` where it could not be read.

    Attributes:
        legacy_names: Older drivers' names of its instances (`MIG-<gpu>/<gpu instance>/<compute instance>`), and the
            UUID of each; CUDA understands both.
    """

    index: int
    uuid: str | None
    name: str = ""
    instances: tuple[str, ...] = ()
    legacy_names: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Visible:
    """The GPUs and instances that a process may use.

    Attributes:
        gpus: NVML indices; a GPU in MIG mode is listed when its instances may be used.
        instances: UUIDs of MIG instances.
        order: UUIDs by CUDA's numbers; `None` where CUDA orders different GPUs by its guess of their speed, or chooses
            one of several MIG instances.
        complete: `False` when an entry named no GPU that could be read: one that could not be read may be meant.
    """

    gpus: frozenset[int]
    instances: frozenset[str]
    order: tuple[str, ...] | None = None
    complete: bool = True
    findings: tuple[Finding, ...] = ()


def interpret_visible(env: Mapping[str, str], devices: tuple[Device, ...]) -> Visible:
    """Return the part of `devices` that CUDA shows to a process with the environment `env`."""
    text = env.get(VARIABLE)
    by_bus = env.get(ORDER_VARIABLE) == "PCI_BUS_ID" or len({device.name for device in devices}) < 2
    if text is None:
        return _showing(devices, by_bus=by_bus)
    entries = tuple(entry.strip() for entry in text.split(","))
    if entries[0].startswith("MIG-"):
        owner = {instance: device for device in devices for instance in device.instances}
        renamed = {name: uuid for device in devices for name, uuid in device.legacy_names}
        present = tuple(renamed.get(entry, entry) for entry in entries)
        uuids, stopped = _abbreviated(present, "MIG-", tuple(owner))
        return Visible(
            gpus=frozenset(owner[uuid].index for uuid in uuids[:1]),
            instances=frozenset(uuids[:1]),
            order=uuids[:1],
            complete=stopped is None,
            findings=(*_remarks(text, len(uuids), stopped), *_one_instance(text, uuids)),
        )
    if entries[0].startswith("GPU-"):
        # The GPU of a Jetson tells its UUID without the prefix.
        by_uuid = {"GPU-" + device.uuid.removeprefix("GPU-"): device for device in devices if device.uuid is not None}
        uuids, stopped = _abbreviated(entries, "GPU-", tuple(by_uuid))
        chosen = tuple(by_uuid[uuid] for uuid in uuids)
        return _showing(chosen, complete=stopped is None, findings=tuple(_remarks(text, len(chosen), stopped)))
    if entries[0].lower() in _NONE:
        return _showing((), findings=(_nothing(text, severity="info"),))
    positions, stopped = _numbered(entries, len(devices))
    chosen = tuple(devices[position] for position in positions)
    remarks = (*_remarks(text, len(chosen), stopped), *(() if by_bus else _ambiguity(text, chosen, devices)))
    return _showing(chosen, by_bus=by_bus, findings=remarks)


def _showing(
    devices: Iterable[Device], *, by_bus: bool = True, complete: bool = True, findings: tuple[Finding, ...] = ()
) -> Visible:
    shown = tuple(devices)
    instances = tuple(instance for device in shown for instance in device.instances)
    # CUDA shows a process at most one instance, and then nothing else.
    known = by_bus and (not instances or (len(shown), len(instances)) == (1, 1))
    return Visible(
        gpus=frozenset(device.index for device in shown),
        instances=frozenset(instances),
        order=(instances or tuple(device.uuid or "" for device in shown)) if known else None,
        complete=complete,
        findings=findings,
    )


def _numbered(entries: tuple[str, ...], count: int) -> tuple[tuple[int, ...], str | None]:
    """Return the positions below `count` that the entries name, and the entry that ended the list early."""
    chosen: list[int] = []
    for entry in entries:
        # CUDA reads a number as C's `strtoul` does: up to the first other character.
        number = _NUMBER.match(entry)
        if number is None or int(number[0]) >= count:
            return tuple(chosen), entry
        if int(number[0]) in chosen:
            return (), None
        chosen.append(int(number[0]))
    return tuple(chosen), None


def _abbreviated(entries: tuple[str, ...], prefix: str, uuids: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """Return the UUIDs that the entries begin, and the entry that ended the list early."""
    chosen: list[str] = []
    for entry in entries:
        begun = [uuid for uuid in uuids if uuid.startswith(entry)] if entry.startswith(prefix) else []
        exact = [uuid for uuid in begun if uuid == entry]
        if len(exact or begun) != 1:
            return tuple(chosen), entry
        (uuid,) = exact or begun
        if uuid in chosen:
            return (), None
        chosen.append(uuid)
    return tuple(chosen), None


def _nothing(text: str, *, severity: Severity = "warning") -> Finding:
    return Finding(
        subject=GPU_MEM,
        problem=f"{VARIABLE}={text!r} shows no card to this process",
        remedy="" if severity == "info" else f"correct {VARIABLE}, or unset it and use [gpus] exclude",
        severity=severity,
    )


def _remarks(text: str, count: int, stopped: str | None) -> Iterator[Finding]:
    if stopped is not None:
        yield Finding(
            subject=GPU_MEM,
            problem=f"{VARIABLE}={text!r}: {stopped!r} names no card here; CUDA ignores it and everything after it",
            remedy="list full UUIDs, as `nvidia-smi -L` prints them",
        )
    if count == 0:
        yield _nothing(text)


def _one_instance(text: str, uuids: tuple[str, ...]) -> Iterator[Finding]:
    if len(uuids) > 1:
        yield Finding(
            subject=GPU_MEM,
            problem=f"{VARIABLE}={text!r} lists {len(uuids)} MIG instances; CUDA shows a process the first one only",
            remedy=f"unset {VARIABLE} and leave instances out with [gpus] exclude; each task is then pinned to its own",
        )


def _ambiguity(text: str, chosen: tuple[Device, ...], devices: tuple[Device, ...]) -> Iterator[Finding]:
    if 0 < len(chosen) < len(devices):
        yield Finding(
            subject=GPU_MEM,
            problem=f"{VARIABLE}={text!r}: the cards differ, and CUDA numbers the fastest first while NVML goes by bus",
            remedy=f"list UUIDs, or set {ORDER_VARIABLE}=PCI_BUS_ID",
        )

"""Memory in use of each GPU now: ours and others'.

`query_use` only reads; everything else is pure. An unknown amount is `None` and never zero: where process ids mean
nothing (WSL, containers, virtual GPUs), or the driver does not tell a process's memory, nobody's use is called ours.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from prefect_slots.detect.gpu import nvml as nvml_api
from prefect_slots.detect.gpu.nvml import Failure, Nvml, error_code, failure_of, lacks, load_nvml
from prefect_slots.model import bytes_used
from prefect_slots.system.container import Surroundings

_LISTS = ("Compute", "Graphics", "MPSCompute")


@dataclass(frozen=True, kw_only=True)
class DeviceUse:
    """A reading of one GPU or MIG instance.

    Attributes:
        used: Bytes that are not free, of those that the device's cell counts; `None` where it has no memory of its own
            or does not tell.
        processes: Bytes of each process by its id, `None` for one whose memory is not told; `None` altogether where the
            processes are not told.
        drawing: The processes that draw and do not compute, as a display server does.
        why: The reason for a `None`.
    """

    uuid: str
    used: int | None
    processes: Mapping[int, int | None] | None
    drawing: frozenset[int] = frozenset()
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class UseReading:
    """NVML's answer: every GPU and instance with a readable UUID, or the error."""

    devices: tuple[DeviceUse, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True)
class ForeignUse:
    """Others' use of a GPU in MiB, rounded up; `None` with the reason if it is unknown.

    Attributes:
        within: The least and the most that it can be, where its memory in use is known and its users are not.
    """

    mib: int | None
    why: str = ""
    within: tuple[int, int] | None = None


def query_use(load: Callable[[], Nvml] = load_nvml) -> UseReading:
    """Read the use of every GPU. Never raises: a GPU that fails is left out or carries the reason."""
    try:
        with nvml_api.opened(load) as nvml:
            count = nvml.nvmlDeviceGetCount()
            return UseReading(devices=tuple(use for index in range(count) for use in _read_gpu(nvml, index)))
    except Exception as error:
        return UseReading(failure=failure_of(error))


def _read_gpu(nvml: Nvml, index: int) -> Iterator[DeviceUse]:
    with suppress(Exception):
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        virtual = _is_virtual(nvml, gpu)
        if not nvml_api.read_mig_mode(nvml, gpu)[0]:
            yield _read_device(nvml, gpu, virtual=virtual)
            return
        for slot in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
            with suppress(Exception):
                instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, slot)
                yield _read_device(nvml, instance, virtual=virtual)


def _is_virtual(nvml: Nvml, gpu: object) -> bool:
    try:
        return nvml.nvmlDeviceGetVirtualizationMode(gpu) in nvml_api.VIRTUAL
    except Exception as error:
        return not lacks(error)


def _read_device(nvml: Nvml, device: object, *, virtual: bool) -> DeviceUse:
    uuid, why = nvml_api.read_uuid(nvml, device), ""
    used: int | None = None
    try:
        memory = nvml_api.read_memory(nvml, device)
        used = None if memory is None else memory[2]
    except Exception as error:
        why = f"its memory cannot be read: {failure_of(error).words}"
    if virtual:
        return DeviceUse(uuid=uuid, used=used, processes=None, why=why or "a virtual card does not tell its processes")
    try:
        processes, drawing = _read_processes(nvml, device)
        return DeviceUse(uuid=uuid, used=used, processes=processes, drawing=drawing, why=why)
    except Exception as error:
        why = why or f"its processes cannot be read: {failure_of(error).words}"
        return DeviceUse(uuid=uuid, used=used, processes=None, why=why)


def _read_processes(nvml: Nvml, device: object) -> tuple[dict[int, int | None], frozenset[int]]:
    """Read all lists; a process that draws and computes stands in two of them, each time with all it uses."""
    found: dict[int, int | None] = {}
    kinds: dict[int, set[str]] = {}
    for kind in _LISTS:
        for entry in _list(nvml, device, kind):
            used = None if entry.usedGpuMemory is None else int(entry.usedGpuMemory)
            kinds.setdefault(entry.pid, set()).add(kind)
            known = found.get(entry.pid)
            found[entry.pid] = used if known is None else max(known, used or 0)
    return found, frozenset(pid for pid, each in kinds.items() if each == {"Graphics"})


def _list(nvml: Nvml, device: object, kind: str) -> list[Any]:
    # The calls without a version raise an error outside NVMLError on drivers without the third.
    for version in ("v3", "v2"):
        try:
            return getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses_{version}")(device)
        except Exception as error:
            if error_code(error) != nvml_api.FUNCTION_NOT_FOUND:
                if kind != "Compute" and lacks(error):
                    return []
                raise
    if kind == "MPSCompute":
        # Drivers older than the call have no clients of MPS in a list of their own.
        return []
    raise LookupError("this driver is too old to tell them")


def foreign_use(
    device: DeviceUse,
    *,
    own: Collection[int],
    ignored: Collection[int] = (),
    around: Surroundings,
    granted: int = 0,
    elsewhere: int = 0,
) -> ForeignUse:
    """Return others' use of a GPU.

    Args:
        device: The reading of the GPU.
        own: Ids of the processes that hold something of the GPU by a grant; see `descendants`.
        ignored: Ids of processes that are not counted, because a headroom covers them.
        around: Signs that process ids are not the driver's.
        granted: The MiB of all grants on the GPU.
        elsewhere: The part of it whose holders have process ids that mean nothing here.
    """
    used = None if device.used is None else bytes_used(device.used)
    why = around.why_pids_mislead or ("" if device.processes is not None else device.why)
    if why or device.processes is None:
        if used is not None and not own and not granted:
            # Without holders of ours the users are others, even if they cannot be named.
            return ForeignUse(mib=used)
        return _within(used, granted, why or device.why)
    others = {pid: used for pid, used in device.processes.items() if pid not in own and pid not in ignored}
    if device.used is None:
        # Its memory is the host's, or cannot be read: only the others' own amounts are left.
        counted, why = others, device.why
    else:
        counted = {pid: used for pid, used in device.processes.items() if pid not in others}
        why = ""
    amounts = [used for used in counted.values() if used is not None]
    if why or len(amounts) < len(counted):
        return _within(used, granted, why or "the driver does not tell how much each process uses")
    total = sum(amounts)
    mib = bytes_used(total if device.used is None else max(0, device.used - total))
    # Our holders elsewhere are among the others, and use no more than these do together.
    told = None if None in others.values() else bytes_used(sum(used or 0 for used in others.values()))
    theirs = elsewhere if told is None else min(elsewhere, told)
    if not theirs:
        return ForeignUse(mib=mib)
    return _within(mib, theirs, "some holders are in another pid namespace, and cannot be told from others")


def _within(used: int | None, granted: int, why: str) -> ForeignUse:
    # Case C02: holders use no more than they were granted, so the rest is others', however little is known of them.
    return ForeignUse(mib=None, why=why, within=None if used is None else (max(0, used - granted), used))


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most that was seen of late.

    Attributes:
        seen: Times and amounts that may still be the most: later ones are smaller.
        latest: When something was last seen.
    """

    seen: tuple[tuple[float, int], ...] = ()
    latest: float | None = None

    @property
    def mib(self) -> int | None:
        """The amount to hold back in MiB; `None` before the first one was seen."""
        return self.seen[0][1] if self.seen else None


def hold(peak: Peak, mib: int | None, now: float, *, seconds: float) -> Peak:
    """Add the amount seen now: it is held back for at least `seconds`, however little follows.

    A program's memory goes up and down; a task that starts in a valley would be crushed at the next top. An unknown
    amount changes nothing, not even the age of what was seen: the last known number stands.
    """
    if mib is None:
        return peak
    now = now if peak.latest is None else max(now, peak.latest)
    kept = tuple((time, amount) for time, amount in peak.seen if amount > mib and time > now - seconds)
    return Peak(seen=(*kept, (now, mib)), latest=now)

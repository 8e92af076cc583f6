"""PyTorch's name of a granted GPU within this process: the truth, or an error with the way to get it.

The driver knows it once CUDA has started. Before, the variables decide by the rules of the vendor's runtime.
"""

import ctypes
import logging
import os
import uuid
from collections.abc import Collection
from functools import cache

from prefect_slots.detect.gpu.cuda_visible import ORDER_VARIABLE, VARIABLE, Device, Visible, interpret_visible
from prefect_slots.errors import ConfigError
from prefect_slots.model import GPU_MEM
from prefect_slots.model.gpu import UNKNOWN, Gpu, Vendor, is_lone, vendor_of

_log = logging.getLogger("prefect_slots")

# From <cuda.h>: the answer to every call before `cuInit`.
_NOT_INITIALIZED = 3
_PINNED = "run it where processes are pinned: in a SlotPool, a SlotTaskRunner, or by `prefect-slots run`"


def device_name(gpu: Gpu, present: Collection[Gpu]) -> str:
    """Return PyTorch's name of a GPU in this process.

    Args:
        gpu: The granted GPU.
        present: All GPUs of the machine.

    Raises:
        ConfigError: if this process does not see the GPU, or its number cannot be known.
    """
    vendor = vendor_of(gpu.key)
    if vendor is UNKNOWN:
        raise _refused(gpu, "its vendor is unknown, so grant.device has no name for it; see grant.devices")
    if not vendor.variable:
        return vendor.framework
    peers = [peer for peer in present if vendor_of(peer.key) is vendor]
    # CUDA's own order and its MIG instances need the driver; the other runtimes number what their lists leave.
    place = _cuda_place(gpu, peers) if vendor.variable == VARIABLE else _listed_place(vendor, gpu, peers)
    return vendor.framework.format(place)


def _refused(gpu: Gpu, reason: str) -> ConfigError:
    return ConfigError(source=GPU_MEM, key=gpu.key, reason=reason)


def _cuda_place(gpu: Gpu, peers: Collection[Gpu]) -> int:
    started = _driver_uuids()
    if started is not None:
        # The driver's UUIDs have no prefix.
        wanted = gpu.key.lower().removeprefix("gpu-").removeprefix("mig-").replace("-", "")
        if wanted in started:
            return started.index(wanted)
        seen = "CUDA has started in this process without it"
    else:
        visible = _visible(gpu, peers)
        order = visible.order
        if order is None and not visible.instances:
            order = _fix_order(gpu, peers)
        for place, key in enumerate(order or ()):
            if key.lower() == gpu.key.lower():
                return place
        listed = os.environ.get(VARIABLE)
        seen = (
            f"{VARIABLE}={listed!r} hides it from this process"
            if listed is not None
            else "this process does not see it"
        )
    if is_lone(gpu.key):
        seen += ", and CUDA shows a process one MIG instance at most"
    raise _refused(gpu, f"{seen}; {_PINNED}")


def _driver_uuids() -> list[str] | None:
    """Return the UUIDs of CUDA's devices by number, in hexadecimal digits; `None` before CUDA has started."""
    try:
        # Loading the library here would do nothing good: only if the process uses it, it knows the order.
        cuda = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        count = ctypes.c_int()
        if cuda.cuDeviceGetCount(ctypes.byref(count)) == _NOT_INITIALIZED:
            return None
        read = getattr(cuda, "cuDeviceGetUuid_v2", None) or cuda.cuDeviceGetUuid
    except (OSError, AttributeError):
        return None
    found: list[str] = []
    for number in range(count.value):
        device, told = ctypes.c_int(), (ctypes.c_ubyte * 16)()
        cuda.cuDeviceGet(ctypes.byref(device), number)
        read(ctypes.byref(told), device)
        found.append(uuid.UUID(bytes=bytes(told)).hex)
    return found


def _visible(gpu: Gpu, peers: Collection[Gpu]) -> Visible:
    entries = os.environ.get(VARIABLE, "").split(",")
    if entries[0].strip() == gpu.key:
        # The usual case, in a pinned process: NVML need not start for it.
        return Visible(gpus=frozenset(), instances=frozenset(), order=(gpu.key,))
    return interpret_visible(os.environ, _devices() or _registered(peers))


@cache
def _devices() -> tuple[Device, ...]:
    """Return the GPUs that the driver lists here, which in a container are fewer than the registered ones."""
    from prefect_slots.detect.gpu.nvidia import query_nvml, visible_devices

    return visible_devices(query_nvml())


def _registered(peers: Collection[Gpu]) -> tuple[Device, ...]:
    """Return declared GPUs, for a demonstration without a driver."""
    by_number = sorted(peers, key=lambda peer: (peer.number is None, peer.number or 0))
    return tuple(Device(index=index, uuid=peer.key) for index, peer in enumerate(by_number))


def _fix_order(gpu: Gpu, peers: Collection[Gpu]) -> tuple[str, ...] | None:
    """Let CUDA number the GPUs by bus, as long as it has not started in this process."""
    if ORDER_VARIABLE in os.environ:
        reason = (
            f"{ORDER_VARIABLE}={os.environ[ORDER_VARIABLE]!r}: the GPUs differ, and CUDA guesses their order; "
            f"set {ORDER_VARIABLE}=PCI_BUS_ID"
        )
        raise _refused(gpu, reason)
    # Not the list of one thread's GPUs: the order is the same for all.
    os.environ[ORDER_VARIABLE] = "PCI_BUS_ID"
    _log.warning("%s=PCI_BUS_ID is set in this process: CUDA would guess an order of different GPUs", ORDER_VARIABLE)
    return _visible(gpu, peers).order


def _listed_place(vendor: Vendor, gpu: Gpu, peers: Collection[Gpu]) -> int:
    """Return the place of a GPU among those that a runtime shows, by the lists in this process's environment."""
    place = gpu.number if gpu.number is not None or len(peers) > 1 else 0
    lists = [next((name for name in names if name in os.environ), "") for names in vendor.lists]
    for variable in filter(None, lists):
        text = os.environ[variable]
        # oneAPI's entries name a backend before the numbers; `*` and `gpu` leave all.
        entries = [entry.strip().lower() for entry in text.split(";")[0].rpartition(":")[2].split(",")]
        if entries in (["*"], ["gpu"]):
            continue
        if vendor.ascending:
            entries = sorted(filter(str.isdecimal, entries), key=int)
        place = next((n for n, entry in enumerate(entries) if entry in (gpu.key.lower(), str(place))), None)
        if place is None:
            raise _refused(gpu, f"{variable}={text!r} hides it from this process; {_PINNED}")
    if place is None:
        raise _refused(gpu, f"the number of a declared GPU is not known; {_PINNED}")
    if any(lists) or all(os.environ.get(name) == value for name, value in vendor.beside.items()):
        return place
    if len(peers) > 1:
        raise _refused(gpu, f"{vendor.name}'s runtime guesses the order of several GPUs; {_PINNED}")
    return 0

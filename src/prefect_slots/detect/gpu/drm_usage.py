"""Memory in use of AMD's and Intel's GPUs: of a GPU by sysfs, of each process by `fdinfo` and `kfd`.

The `fdinfo` of an open GPU holds the memory of that process; its user and root can read it. AMD's driver for computing
lists the memory of computing processes (`kfd`) for all users. Both may count one process, so the larger number is used.
An amount is `None` if it cannot be read or the driver leaves it out.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from prefect_slots.detect.gpu.amd import AMD, query_amd, query_nodes
from prefect_slots.detect.gpu.intel import INTEL, query_intel
from prefect_slots.detect.gpu.usage import DeviceUse
from prefect_slots.system.sysfs import query_drm, text_of

_NODES = "/dev/dri/"
_NODE = re.compile(r"(?:card|renderD)[0-9]+")
# On the GPU itself: `vram` is AMD's, `vram0` of the driver xe, `local0` of i915; a tile of a GPU is a region.
_REGION = re.compile(r"drm-(resident|memory|total)-((?:vram|local)[0-9]*)")
_SIZE = re.compile(r"([0-9]+)(?: (KiB|MiB))?")
_UNITS = {None: 1, "KiB": 2**10, "MiB": 2**20}
_KFD = "sys/class/kfd/kfd"


@dataclass(frozen=True, kw_only=True)
class Client:
    """One opening of a GPU: the driver's number of it, and the bytes on the GPU, `None` if the driver leaves them out.

    Attributes:
        number: Equal wherever the same opening is inherited or duplicated.
    """

    number: str
    used: int | None


def parse_fdinfo(text: str) -> Client:
    """Read the `fdinfo` of a file descriptor of a GPU."""
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    regions: dict[str, dict[str, int]] = {}
    for key, value in told.items():
        region, size = _REGION.fullmatch(key), _SIZE.fullmatch(value)
        if region is not None and size is not None:
            regions.setdefault(region[2], {})[region[1]] = int(size[1]) * _UNITS[size[2]]
    # Resident memory is on the GPU now; `memory` is its older name, and `total` may lie elsewhere in part.
    amounts = [
        next(each[kind] for kind in ("resident", "memory", "total") if kind in each) for each in regions.values()
    ]
    return Client(number=told.get("drm-client-id", ""), used=sum(amounts) if amounts else None)


@dataclass
class _Seen:
    """Bytes by GPU and process, and the processes whose GPUs cannot be seen."""

    by_gpu: dict[str, dict[int, int | None]] = field(default_factory=dict[str, dict[int, int | None]])
    hidden: set[int] = field(default_factory=set[int])

    def add(self, address: str, pid: int, used: int | None) -> None:
        gpu = self.by_gpu.setdefault(address, {})
        before = gpu.get(pid, 0)
        gpu[pid] = None if used is None or before is None else before + used


def query_drm_use(root: Path, keys: Collection[str]) -> tuple[DeviceUse, ...]:
    """Read the use of AMD's and Intel's GPUs with these keys. Never raises: an unreadable GPU carries the reason."""
    with suppress(OSError):
        amd = {gpu.address: gpu.key for gpu in query_amd(root) if gpu.key in keys}
        intel = {gpu.address: gpu.key for gpu in query_intel(root) if gpu.key in keys}
        if amd or intel:
            seen = _query_clients(root)
            computing = _query_kfd(root)
            folders = query_drm(root, AMD)
            return (
                *(_amd_use(key, folders[address], seen, computing, address) for address, key in amd.items()),
                *(_intel_use(key, query_drm(root, INTEL)[address], seen, address) for address, key in intel.items()),
            )
    return ()


def _amd_use(
    key: str, gpu: Path, seen: _Seen, computing: Mapping[str, Mapping[int, int | None]] | None, address: str
) -> DeviceUse:
    processes = dict(seen.by_gpu.get(address, {}))
    if computing is None:
        processes |= dict.fromkeys(seen.hidden)
    else:
        for pid, used in computing.get(address, {}).items():
            drawn = processes.get(pid, 0)
            processes[pid] = None if used is None or drawn is None else max(used, drawn)
    text = text_of(gpu / "device/mem_info_vram_used")
    if not text.isdecimal():
        return DeviceUse(uuid=key, used=None, processes=processes, why="its memory in use cannot be read")
    return DeviceUse(uuid=key, used=int(text), processes=processes)


def _intel_use(key: str, gpu: Path, seen: _Seen, address: str) -> DeviceUse:
    """Read one of Intel's GPUs; only Intel's own build of `i915` has a count of its free memory."""
    processes = {**dict.fromkeys(seen.hidden), **seen.by_gpu.get(address, {})}
    total, left = (text_of(gpu / f"lmem_{word}_bytes") for word in ("total", "avail"))
    used = max(0, int(total) - int(left)) if total.isdecimal() and left.isdecimal() else None
    return DeviceUse(uuid=key, used=used, processes=processes)


def _query_clients(root: Path) -> _Seen:
    addresses = {
        node.name: (node / "device").resolve().name
        for node in (root / "sys/class/drm").iterdir()
        if _NODE.fullmatch(node.name)
    }
    seen = _Seen()
    known: set[tuple[str, str]] = set()
    for pid, folder in _processes(root):
        try:
            nodes = list(_open_nodes(folder))
        except PermissionError:
            seen.hidden.add(pid)
            continue
        for number, node in nodes:
            address = addresses.get(node)
            if address is None:
                continue
            client = parse_fdinfo(text_of(folder / "fdinfo" / number))
            # Inherited or duplicated, it is nothing more.
            again = client.number != "" and (address, client.number) in known
            known.add((address, client.number))
            seen.add(address, pid, 0 if again else client.used)
    return seen


def _processes(root: Path) -> Iterator[tuple[int, Path]]:
    for folder in sorted((root / "proc").iterdir()):
        if folder.name.isdecimal():
            yield int(folder.name), folder


def _open_nodes(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the GPUs that a process has open: the number of the file descriptor, and the node's name.

    Raises:
        PermissionError: if that may not be seen.
    """
    with suppress(FileNotFoundError, ProcessLookupError):
        for descriptor in (folder / "fd").iterdir():
            with suppress(FileNotFoundError):
                target = str(descriptor.readlink())
                if target.startswith(_NODES):
                    yield descriptor.name, target.removeprefix(_NODES)


def _query_kfd(root: Path) -> dict[str, dict[int, int | None]] | None:
    """Return the bytes of computing processes, by place on the bus; `None` without that driver."""
    if not (root / _KFD / "proc").is_dir():
        return None
    found: dict[str, dict[int, int | None]] = {}
    with suppress(OSError):
        gpus = {node.gpu_id: node.address for node in query_nodes(root)}
        for process in (root / _KFD / "proc").iterdir():
            for file in process.glob("vram_*"):
                address = gpus.get(file.name.removeprefix("vram_"))
                if address is not None:
                    text = text_of(file)
                    found.setdefault(address, {})[int(process.name)] = int(text) if text.isdecimal() else None
    return found

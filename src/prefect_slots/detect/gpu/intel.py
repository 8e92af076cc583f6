"""Intel's GPUs by sysfs; Intel's own `xpu-smi` adds names and missing amounts if it is installed.

A GPU is known by its place on the bus. The driver `xe` tells the memory of each of a GPU's tiles, Intel's own build
of `i915` that of a GPU, the kernel's `i915` none. Graphics that are built into a processor have no memory of their
own: they are left out unless `[gpus] integrated = true`, and share the host's memory then.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefect_slots.detect.detector import Answer, Scene
from prefect_slots.detect.gpu.offer import GpuOffer
from prefect_slots.detect.host import query_memory
from prefect_slots.model import GPU_MEM, GpuRules, bytes_available, intel_key
from prefect_slots.system.commands import run_command
from prefect_slots.system.sysfs import query_drm, text_of

INTEL = "0x8086"
# Graphics of a processor lie on bus 0; a GPU with memory of its own lies behind a bridge.
_BUILT_IN = re.compile(r"[0-9a-f]+:00:[0-9a-f]{2}\.[0-9]")
_PROGRAM = "xpu-smi"
# `xpu-smi` is run once per GPU, all within the time limit of the detector.
_SECONDS = 5.0
# Variables of oneAPI; the numbers in them are given by its run time, and a device may be a part of a GPU.
_VARIABLES = ("ONEAPI_DEVICE_SELECTOR", "ZE_AFFINITY_MASK")


@dataclass(frozen=True, kw_only=True)
class IntelReading:
    """A reading of one GPU; `total` is `None` if its memory is not known.

    Attributes:
        integrated: It is the graphics of a processor.
    """

    address: str
    integrated: bool = False
    driver: str = ""
    name: str = ""
    total: int | None = None

    @property
    def key(self) -> str:
        """The cell's key."""
        return intel_key(self.address)


class IntelDetector:
    """Detector of Intel's GPUs, as cells of `gpu_mem`."""

    resources = frozenset({GPU_MEM})

    def detect(self, scene: Scene) -> Answer:
        """Read sysfs, and ask `xpu-smi` for names and for memory that sysfs does not tell."""
        gpus = tuple(query_intel(scene.root))
        told = query_xpu_smi(scene.env) if gpus else {}
        return interpret_intel(gpus, told, scene.gpus, scene.env, partial(query_memory, scene.root))


def query_intel(root: Path) -> Iterator[IntelReading]:
    """Yield the GPUs by their place on the bus.

    Raises:
        OSError: if the list of GPUs exists and cannot be read.
    """
    for address, gpu in query_drm(root, INTEL).items():
        driver = gpu / "device/driver"
        name = driver.readlink().name if driver.is_symlink() else ""
        integrated = _BUILT_IN.fullmatch(address) is not None
        yield IntelReading(address=address, integrated=integrated, driver=name, total=_memory(gpu))


def _memory(gpu: Path) -> int | None:
    tiles = sorted((gpu / "device").glob("tile[0-9]*/physical_vram_size_bytes"))
    texts = [text_of(path) for path in tiles or (gpu / "lmem_total_bytes", gpu / "device/lmem_total_bytes")]
    told = [int(text, 0) for text in texts if re.fullmatch(r"[0-9]+|0x[0-9a-fA-F]+", text)]
    # If one tile does not answer, the sum would be too small: the GPU's memory is unknown.
    if not told or (tiles and len(told) < len(tiles)):
        return None
    return sum(told) if tiles else told[0]


@dataclass(frozen=True)
class Described:
    """The description of a GPU by `xpu-smi`."""

    address: str
    name: str
    total: int | None


def query_xpu_smi(env: Mapping[str, str]) -> dict[str, Described]:
    """Ask for every GPU; return the descriptions by place on the bus, none if the program does not answer."""
    program = shutil.which(_PROGRAM, path=env.get("PATH"))
    if program is None:
        return {}
    told: dict[str, Described] = {}
    for number in parse_discovery(run_command((program, "discovery", "-j"), env=env, timeout=_SECONDS).text):
        output = run_command((program, "discovery", "-d", str(number), "-j"), env=env, timeout=_SECONDS)
        described = parse_device(output.text)
        if described is not None:
            told[described.address] = described
    return told


def parse_discovery(text: str) -> tuple[int, ...]:
    """Return the numbers of the GPUs that `xpu-smi discovery -j` lists; none for anything else."""
    listed = _object(text).get("device_list")
    if not isinstance(listed, list):
        return ()
    entries: list[Any] = listed  # pyright: ignore[reportUnknownVariableType]
    return tuple(
        entry["device_id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("device_id"), int)
    )


def parse_device(text: str) -> Described | None:
    """Read the output of `xpu-smi discovery -d N -j` about one GPU; `None` for anything else."""
    told = _object(text)
    address = told.get("pci_bdf_address")
    if not isinstance(address, str) or not address:
        return None
    memory = str(told.get("memory_physical_size_byte", ""))
    total = int(memory) if re.fullmatch(r"[1-9][0-9]{0,18}", memory) else None
    return Described(address.lower(), str(told.get("device_name", "")), total)


def _object(text: str) -> dict[str, Any]:
    try:
        read: Any = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def interpret_intel(
    gpus: tuple[IntelReading, ...],
    told: Mapping[str, Described],
    rules: GpuRules,
    env: Mapping[str, str],
    host_mib: Callable[[], int] = query_memory,
) -> Answer:
    """Return the GPUs' offer of `gpu_mem`; `host_mib` gives the host's memory, which a processor's graphics share."""
    offer = GpuOffer(rules=rules)
    for index, gpu in enumerate(gpus):
        described = told.get(gpu.address, Described(gpu.address, "", None))
        name = described.name or gpu.name or "Intel card"
        total = gpu.total or described.total
        if rules.excludes(gpu.key):
            continue
        if gpu.integrated and not rules.integrated:
            offer.leave_out_integrated(gpu.key, name)
        elif gpu.integrated and not total:
            offer.add_sharing(gpu.key, name, host_mib, index)
        elif total:
            offer.add(gpu.key, name, bytes_available(total), index)
        else:
            problem = f"nothing tells its memory: its driver '{gpu.driver or 'none'}' does not, nor does {_PROGRAM}"
            remedy = f"install {_PROGRAM}, or declare the card under [[gpus.card]]"
            offer.fail(gpu.key, name, problem, remedy, severity="warning")
    for variable in _VARIABLES if offer.cells else ():
        if value := env.get(variable):
            problem = f"{variable}={value!r} may hide cards from tasks, and which cards it means is not known here"
            offer.say(GPU_MEM, problem, "leave them out with [gpus] exclude, and unset it")
    return offer.answer("sysfs, xpu-smi" if told else "sysfs")

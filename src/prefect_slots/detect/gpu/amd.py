"""AMD's GPUs by sysfs; AMD's own library adds their names if it is installed.

A GPU is known by its unique number, by which `ROCR_VISIBLE_DEVICES` names it; older ones have none and are known by
their place on the bus. The library never identifies a GPU: GPUs must not change their identity because
somebody installs a package. Graphics of a processor are left out unless `[gpus] integrated = true`: few programs can
compute on them, and their memory is a small part of the host's.
"""

import contextlib
import ctypes.util
import importlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_slots.detect.detector import Answer, Scene
from prefect_slots.detect.gpu.offer import GpuOffer
from prefect_slots.model import GPU_MEM, GpuRules, amd_key, bytes_available
from prefect_slots.system.sysfs import query_drm, text_of

AMD = "0x1002"
_ROCR = "ROCR_VISIBLE_DEVICES"
# HIP reads the first of these that is set; its numbers count what the runtime below it leaves.
_HIP = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
_NODES = "sys/class/kfd/kfd/topology/nodes"
# The version of the table `gpu_metrics`, by its third byte: 1 is a GPU's of its own, these are a processor's.
_PROCESSOR_METRICS = frozenset({2, 3})
# If nothing else tells: firmware gives a processor's graphics half a GiB as a rule; no GPU that computes has so little.
_SMALL_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class AmdReading:
    """A reading of one GPU; `failure` is the reason if its memory could not be read.

    Attributes:
        integrated: It is the graphics of a processor.
    """

    address: str
    integrated: bool = False
    unique_id: str = ""
    name: str = ""
    total: int = 0
    failure: str = ""

    @property
    def key(self) -> str:
        """The cell's key: ROCm's own name if the GPU has a number."""
        return amd_key(self.unique_id, self.address)


class AmdDetector:
    """Detector of the GPUs that the driver `amdgpu` runs, as cells of `gpu_mem`."""

    resources = frozenset({GPU_MEM})

    def detect(self, scene: Scene) -> Answer:
        """Read sysfs, and ask the library for names."""
        gpus = tuple(query_amd(scene.root))
        names = query_names() if gpus else {}
        return interpret_amd(gpus, names, scene.gpus, scene.env)


def query_amd(root: Path) -> Iterator[AmdReading]:
    """Yield the GPUs in the order of ROCm: that of the driver for computing, without it by their place on the bus.

    Raises:
        OSError: if the list of GPUs exists and cannot be read.
    """
    folders = query_drm(root, AMD)
    nodes = query_nodes(root)
    order = [node.address for node in nodes]
    processors = {node.address for node in nodes if node.cores}
    for address in sorted(folders, key=lambda each: order.index(each) if each in order else len(order)):
        device = folders[address] / "device"
        unique_id, name = text_of(device / "unique_id"), text_of(device / "product_name")
        # The driver writes zero for a GPU without a number.
        unique_id = "" if set(unique_id) <= {"0"} else unique_id
        total, failure = 0, ""
        try:
            total = int((device / "mem_info_vram_total").read_text())
        except (OSError, ValueError) as error:
            failure = str(error)
        yield AmdReading(
            address=address,
            integrated=address in processors or _is_integrated(device, total),
            unique_id=unique_id,
            name=name,
            total=total,
            failure=failure,
        )


def _is_integrated(device: Path, total: int) -> bool:
    try:
        return (device / "gpu_metrics").read_bytes()[2] in _PROCESSOR_METRICS
    except (OSError, IndexError):
        return 0 < total <= _SMALL_BYTES


@dataclass(frozen=True)
class Node:
    """A GPU as AMD's driver for computing lists it: its id there, its place on the bus, the cores of its processor."""

    gpu_id: str
    address: str
    cores: int


def query_nodes(root: Path) -> list[Node]:
    """Return the GPUs of the driver for computing, in the order of ROCm; none without that driver."""
    found: list[Node] = []
    with contextlib.suppress(OSError):
        folders = [folder for folder in (root / _NODES).iterdir() if folder.name.isdecimal()]
        for folder in sorted(folders, key=lambda folder: int(folder.name)):
            told = dict(re.findall(r"^(\w+) (\d+)$", text_of(folder / "properties"), re.MULTILINE))
            minor = told.get("drm_render_minor", "0")
            if minor != "0":
                address = (root / f"sys/class/drm/renderD{minor}/device").resolve().name
                found.append(Node(text_of(folder / "gpu_id"), address, int(told.get("cpu_cores_count", "0"))))
    return found


def query_names() -> dict[str, str]:
    """Ask AMD's library for product names, by place on the bus; empty if it does not answer."""
    if ctypes.util.find_library("amd_smi") is None and not Path("/opt/rocm/lib/libamd_smi.so").exists():
        # Without its library the binding prints to standard output and raises KeyError when it is imported.
        return {}
    try:
        # Around the import alone: a call that hangs in here takes the output of the whole process with it.
        with contextlib.redirect_stdout(io.StringIO()):
            amdsmi: Any = importlib.import_module("amdsmi")
        amdsmi.amdsmi_init()
        try:
            return {
                str(amdsmi.amdsmi_get_gpu_device_bdf(gpu)).lower(): str(
                    amdsmi.amdsmi_get_gpu_asic_info(gpu)["market_name"]
                )
                for gpu in amdsmi.amdsmi_get_processor_handles()
            }
        finally:
            amdsmi.amdsmi_shut_down()
    except Exception:
        # Only names for people are lost: memory and identity come from sysfs.
        return {}


def interpret_amd(
    gpus: tuple[AmdReading, ...], names: Mapping[str, str], rules: GpuRules, env: Mapping[str, str]
) -> Answer:
    """Return the GPUs' offer of `gpu_mem`."""
    offer = GpuOffer(rules=rules)
    shown = _visible(gpus, env, offer)
    for index, gpu in enumerate(gpus):
        if rules.excludes(gpu.key) or gpu not in shown:
            continue
        name = names.get(gpu.address) or gpu.name or "AMD card"
        if gpu.integrated and not rules.integrated:
            offer.leave_out_integrated(gpu.key, name)
        elif gpu.failure:
            offer.fail(gpu.key, gpu.name, f"cannot be read: {gpu.failure}", "see the kernel log of amdgpu")
        else:
            offer.add(gpu.key, name, bytes_available(gpu.total), index)
    return offer.answer("amdgpu")


def _visible(gpus: tuple[AmdReading, ...], env: Mapping[str, str], offer: GpuOffer) -> tuple[AmdReading, ...]:
    """Return the GPUs that ROCm shows to a process: a list for the runtime, then one for HIP above it."""
    for variable in (_ROCR, next((name for name in _HIP if name in env), _HIP[0])):
        if variable in env:
            chosen: list[AmdReading] = []
            for entry in (entry.strip() for entry in env[variable].split(",")):
                place = int(entry) if entry.isdecimal() else -1
                gpu = next((gpu for n, gpu in enumerate(gpus) if n == place or gpu.key.lower() == entry.lower()), None)
                if gpu is None or gpu in chosen:
                    break
                chosen.append(gpu)
            if len(chosen) < len(gpus):
                problem = f"{variable}={env[variable]!r} shows {len(chosen)} of {len(gpus)} AMD cards"
                offer.say(GPU_MEM, problem, severity="info")
            gpus = tuple(chosen)
    return gpus

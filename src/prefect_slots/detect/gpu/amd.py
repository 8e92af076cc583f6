"""AMD's GPUs by sysfs; AMD's own library adds their names if it is installed.

A GPU is known by its unique number, by which `ROCR_VISIBLE_DEVICES` names it; older ones have none and are known by
their place on the bus. The library never identifies a GPU: GPUs must not change their identity because
somebody installs a package.
"""

import contextlib
import ctypes.util
import importlib
import io
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


@dataclass(frozen=True, kw_only=True)
class AmdReading:
    """A reading of one GPU; `failure` is the reason if its memory could not be read."""

    address: str
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
    """Yield the GPUs by their place on the bus.

    Raises:
        OSError: if the list of GPUs exists and cannot be read.
    """
    for address, gpu in query_drm(root, AMD).items():
        device = gpu / "device"
        unique_id, name = text_of(device / "unique_id"), text_of(device / "product_name")
        # The driver writes zero for a GPU without a number.
        unique_id = "" if set(unique_id) <= {"0"} else unique_id
        try:
            total = int((device / "mem_info_vram_total").read_text())
            yield AmdReading(address=address, unique_id=unique_id, name=name, total=total)
        except (OSError, ValueError) as error:
            yield AmdReading(address=address, unique_id=unique_id, name=name, failure=str(error))


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
        if gpu.failure:
            offer.fail(gpu.key, gpu.name, f"cannot be read: {gpu.failure}", "see the kernel log of amdgpu")
        else:
            name = names.get(gpu.address) or gpu.name or "AMD card"
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

"""AMD's cards, as the kernel's driver tells in sysfs; AMD's own library, where it is, adds their names.

A card is known by its unique number, by which `ROCR_VISIBLE_DEVICES` names it; older ones have none and are known by
their place on the bus. The library never decides which card is which: cards must not change their identity because
somebody installs a package.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prefect_slots.detect.detector import Answer, Scene, Sight
from prefect_slots.model.amount import MIB, bytes_available, format_amount
from prefect_slots.model.declaration import GpuRules
from prefect_slots.model.finding import Finding
from prefect_slots.model.gpu import amd_key
from prefect_slots.model.resource import GPU_MEM, Cell, Resource
from prefect_slots.system.sysfs import query_drm, text_of

AMD: Final = "0x1002"
_ROCR: Final = "ROCR_VISIBLE_DEVICES"
# What HIP reads, in this order; its numbers count what the runtime below it leaves.
_HIP: Final = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")


@dataclass(frozen=True, kw_only=True)
class AmdReading:
    """What was read of one card; `failure` says why its memory could not be."""

    address: str
    unique_id: str = ""
    name: str = ""
    total: int = 0
    failure: str = ""

    @property
    def key(self) -> str:
        """What it is known by, in ROCm's own words where it has a number."""
        return amd_key(self.unique_id, self.address)


class AmdDetector:
    """Finds the cards that the driver `amdgpu` runs, as cells of `gpu_mem`."""

    resources = frozenset({GPU_MEM})

    def detect(self, scene: Scene) -> Answer:
        """Read sysfs, and ask the library for names."""
        cards = tuple(query_amd(scene.root))
        names = query_names() if cards else {}
        return interpret_amd(cards, names, scene.gpus, scene.env)


def query_amd(root: Path) -> Iterator[AmdReading]:
    """Yield the cards by their place on the bus.

    Raises:
        OSError: if the list of cards exists and cannot be read.
    """
    for address, card in query_drm(root, AMD).items():
        device = card / "device"
        unique_id, name = text_of(device / "unique_id"), text_of(device / "product_name")
        # The driver writes zero for a card without a number.
        unique_id = "" if set(unique_id) <= {"0"} else unique_id
        try:
            total = int((device / "mem_info_vram_total").read_text())
            yield AmdReading(address=address, unique_id=unique_id, name=name, total=total)
        except (OSError, ValueError) as error:
            yield AmdReading(address=address, unique_id=unique_id, name=name, failure=str(error))


def query_names() -> dict[str, str]:
    """Ask AMD's library for what its cards are called, by their place on the bus; empty where it does not answer."""
    if ctypes.util.find_library("amd_smi") is None and not Path("/opt/rocm/lib/libamd_smi.so").exists():
        # Without its library the binding prints to standard output and raises KeyError when it is imported.
        return {}
    try:
        # Around the import alone: what hangs in here takes the output of the whole process with it.
        with contextlib.redirect_stdout(io.StringIO()):
            amdsmi: Any = importlib.import_module("amdsmi")
        amdsmi.amdsmi_init()
        try:
            return {
                str(amdsmi.amdsmi_get_gpu_device_bdf(card)).lower(): str(
                    amdsmi.amdsmi_get_gpu_asic_info(card)["market_name"]
                )
                for card in amdsmi.amdsmi_get_processor_handles()
            }
        finally:
            amdsmi.amdsmi_shut_down()
    except Exception:
        # Only names for people: sysfs has told what counts.
        return {}


def interpret_amd(
    cards: tuple[AmdReading, ...], names: Mapping[str, str], rules: GpuRules, env: Mapping[str, str]
) -> Answer:
    """Judge what the cards offer as `gpu_mem`."""
    findings: list[Finding] = []
    cells: list[Cell] = []
    unknown: set[str] = set()
    sights: list[Sight] = []
    shown = _visible(cards, env, findings)
    for index, card in enumerate(cards):
        if rules.excludes(card.key) or card not in shown:
            continue
        if card.failure:
            problem = f"cannot be read: {card.failure}"
            remedy = "see the kernel log of amdgpu"
            findings.append(Finding(subject=card.key, problem=problem, remedy=remedy, severity="error"))
            unknown.add(card.key)
            sights.append(Sight(resource=GPU_MEM, key=card.key, unit=MIB, label=card.name, why=problem))
            continue
        mib = bytes_available(card.total) - rules.headroom_mib
        if mib <= 0:
            kept = format_amount(rules.headroom_mib, MIB)
            problem = f"headroom {kept} leaves nothing of {format_amount(bytes_available(card.total), MIB)}"
            findings.append(Finding(subject=card.key, problem=problem, remedy="lower it"))
            continue
        name = names.get(card.address) or card.name or "AMD card"
        cells.append(Cell(key=card.key, capacity=mib, label=name, index=index))
    resource = Resource(name=GPU_MEM, unit=MIB, cells=tuple(cells), origin="amdgpu")
    return Answer(
        resources=(resource,) if cells else (),
        findings=tuple(findings),
        unknown_cells=frozenset(unknown),
        sights=tuple(sights),
    )


def _visible(cards: tuple[AmdReading, ...], env: Mapping[str, str], findings: list[Finding]) -> tuple[AmdReading, ...]:
    """Return the cards that ROCm shows to a process: a list for the runtime, then one for HIP above it."""
    for variable in (_ROCR, next((name for name in _HIP if name in env), _HIP[0])):
        if variable in env:
            chosen: list[AmdReading] = []
            for entry in (entry.strip() for entry in env[variable].split(",")):
                place = int(entry) if entry.isdecimal() else -1
                card = next(
                    (card for n, card in enumerate(cards) if n == place or card.key.lower() == entry.lower()), None
                )
                if card is None or card in chosen:
                    break
                chosen.append(card)
            if len(chosen) < len(cards):
                problem = f"{variable}={env[variable]!r} shows {len(chosen)} of {len(cards)} AMD cards"
                findings.append(Finding(subject=GPU_MEM, problem=problem, severity="info"))
            cards = tuple(chosen)
    return cards

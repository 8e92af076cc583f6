"""Law 11, belief: nothing is offered beyond what there is, whatever the driver leaves untold.

Machines, strangers and holders are drawn; NVML tells of them over its double, AMD's and Intel's drivers by trees of
sysfs and /proc, and a real ledger grants. The truth is kept beside it as the draw has it: grants on a GPU and others'
use of it are together never more than it has.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pynvml
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from tests.property.effort import effort
from tests.support.nvml_stub.double import NvmlDouble
from tests.support.nvml_stub.machines import GIB, MIB, NOT_SUPPORTED, UNTOLD, FakeDevice, FakeProcess, Machine
from tests.support.processes import member
from tests.unit.detect.gpu.test_intel import plug
from tests.unit.system.test_container import link, put

from prefect_slots.detect.detector import Answer, Scene
from prefect_slots.detect.gpu.amd import AMD, AmdDetector
from prefect_slots.detect.gpu.drm_usage import query_drm_use
from prefect_slots.detect.gpu.intel import INTEL, IntelDetector
from prefect_slots.detect.gpu.nvidia import interpret_nvml, query_nvml
from prefect_slots.detect.gpu.usage import UseReading, query_use
from prefect_slots.ledger import registry
from prefect_slots.ledger.store import Ledger
from prefect_slots.model import Asked, GpuRules, Inventory, Request, Shape, Ticket, amd_key, declare, intel_key
from prefect_slots.model.book import Ended, Left
from prefect_slots.scheduling.explain import is_possible
from prefect_slots.settings import load_settings
from prefect_slots.system.container import Surroundings
from prefect_slots.system.processes import ProcessInfo
from prefect_slots.usage.gpus import CRUMBS_MIB, GpusSeen, note_gpus

OURS, STRANGER, ELSEWHERE = 20_000, 30_000, 40_000
SETTINGS = load_settings(env={})


@dataclass
class Gpu:
    """A GPU or MIG instance as it is: the memory that strangers and holders have of it.

    Attributes:
        card: The UUID of the card that it is an instance of; `None` for a card itself.
        hides: The driver does not tell the memory of processes.
    """

    device: FakeDevice
    card: str | None
    hides: bool
    strangers: int = 0
    holders: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def room(self) -> int:
        """Bytes that any process could still have."""
        return self.device.total - self.device.reserved - self.strangers - sum(self.holders.values())

    def tell(self, pids: dict[str, int]) -> FakeDevice:
        """Return the device as NVML sees it now; the process of a holder elsewhere has the host's number."""
        of_ours = [(pids[grant], used) for grant, used in self.holders.items()]
        processes = [*of_ours, *([(STRANGER, self.strangers)] if self.strangers else [])]
        return replace(
            self.device,
            used=self.strangers + sum(self.holders.values()),
            processes=tuple(FakeProcess(pid=pid, memory=UNTOLD if self.hides else used) for pid, used in processes),
        )


@st.composite
def machines(draw: st.DrawFn) -> list[list[Gpu]]:
    """Return cards, each with its instances or itself; a few have unreadable fields, and a few share a UUID."""
    uuids = draw(st.lists(st.sampled_from(["GPU-a", "GPU-b", "GPU-c", ""]), min_size=1, max_size=3))
    cards: list[list[Gpu]] = []
    for number, uuid in enumerate(uuids):
        slots = draw(st.sets(st.integers(0, 3), min_size=1, max_size=2)) if draw(st.integers(0, 3)) == 0 else set[int]()
        names = [f"MIG-{number}-{slot}" for slot in sorted(slots)] or [uuid]
        parts: list[Gpu] = []
        for slot, name in zip([*sorted(slots), 0], names, strict=False):
            total = draw(st.integers(1, 24)) * GIB + draw(st.integers(0, MIB))
            device = FakeDevice(
                uuid=name,
                slot=slot,
                gi=slot,
                total=total,
                reserved=draw(st.integers(0, GIB // 2)),
                mode=draw(st.sampled_from([0, 0, 0, 3])),
                name_error=draw(st.sampled_from([0, 0, 2, 999])),
                mode_error=draw(st.sampled_from([0, 0, 2, 999])),
                v2_error=draw(st.sampled_from([0, 0, NOT_SUPPORTED])),
                processes_error=draw(st.sampled_from([0, 0, 0, NOT_SUPPORTED, 4])),
            )
            strangers = int((total - device.reserved) * draw(st.sampled_from([0.0, 0.2, 0.7])))
            hides = draw(st.integers(0, 3)) == 0
            parts.append(Gpu(device, uuid if slots else None, hides=hides, strangers=strangers))
        cards.append(parts)
    return cards


class NvidiaDriver:
    """NVIDIA's GPUs, of which NVML tells over its double."""

    told = True

    def __init__(self, cards: list[list[Gpu]]) -> None:
        self.gpus = [gpu for parts in cards for gpu in parts]
        self._cards = cards

    def offer(self, around: Surroundings) -> Answer:
        """Return what detection finds."""
        with self._nvml({}):
            return interpret_nvml(query_nvml(), GpuRules(), {}, lambda: 65536, around)

    def use(self, pids: dict[str, int]) -> UseReading:
        """Return what a look finds, the processes having these ids."""
        with self._nvml(pids):
            return query_use()

    @contextmanager
    def _nvml(self, pids: dict[str, int]) -> Generator[None]:
        cards = tuple(self._card(parts, pids) for parts in self._cards)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pynvml, "nvmlLib", NvmlDouble(Machine(cards=cards)))
            patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
            yield

    def _card(self, parts: list[Gpu], pids: dict[str, int]) -> FakeDevice:
        told = tuple(part.tell(pids) for part in parts)
        if parts[0].card is None:
            return told[0]
        return FakeDevice(uuid=parts[0].card, mig=1, pending=1, slots=7, instances=told)


class KernelDriver:
    """GPUs of which `amdgpu`, `i915` or `xe` tells by files under a root of its own.

    Args:
        told: Its memory in use is told, and not only that of each process.
    """

    def __init__(self, driver: str, gpus: list[Gpu], *, told: bool, root: Path) -> None:
        self.gpus = gpus
        self.told = told
        self._driver, self._root = driver, root
        for number, gpu in enumerate(gpus):
            total = {"i915": "lmem_total_bytes", "xe": "tile0__physical_vram_size_bytes"}
            file = total.get(driver, "mem_info_vram_total")
            vendor = AMD if driver == "amdgpu" else INTEL
            plug(root, number, _address(number), driver, vendor=vendor, **{file: str(gpu.device.total)})

    def offer(self, _: Surroundings) -> Answer:
        """Return what detection finds."""
        found = AmdDetector() if self._driver == "amdgpu" else IntelDetector()
        return found.detect(Scene(root=self._root))

    def use(self, pids: dict[str, int]) -> UseReading:
        """Return what a look finds, the processes having these ids."""
        shutil.rmtree(self._root / "proc", ignore_errors=True)
        (self._root / "proc").mkdir()
        for number, gpu in enumerate(self.gpus):
            now = gpu.tell(pids)
            if self.told and self._driver == "amdgpu":
                put(self._root / "sys/devices" / _address(number), {"mem_info_vram_used": str(now.used)})
            elif self.told and self._driver == "i915":
                card = {"lmem_total_bytes": str(now.total), "lmem_avail_bytes": str(now.total - now.used)}
                put(self._root / f"sys/class/drm/card{number}", card)
            for process in now.processes:
                text = f"drm-driver:\t{self._driver}\ndrm-client-id:\t{number}{process.pid}\n"
                if process.memory != UNTOLD:
                    text += f"drm-resident-{_REGIONS[self._driver]}:\t{-(-process.memory // 1024)} KiB\n"
                link(self._root / f"proc/{process.pid}/fd/{number}", f"/dev/dri/card{number}")
                put(self._root, {f"proc/{process.pid}/fdinfo/{number}": text})
        return UseReading(devices=query_drm_use(self._root, {gpu.device.uuid for gpu in self.gpus}))


_REGIONS = {"amdgpu": "vram", "i915": "local0", "xe": "vram0"}


def _address(number: int) -> str:
    return f"0000:{number + 3:02x}:00.0"


@st.composite
def kernel_drivers(draw: st.DrawFn) -> Callable[[Path], KernelDriver]:
    """Return the making of one or two GPUs of AMD's or Intel's under a root."""
    driver = draw(st.sampled_from(sorted(_REGIONS)))
    # `xe` has no count, `i915` in one build only; where that of a process is missing too, nothing at all is known.
    told = driver == "amdgpu" or (driver == "i915" and draw(st.booleans()))
    gpus: list[Gpu] = []
    for number in range(draw(st.integers(1, 2))):
        key = amd_key("", _address(number)) if driver == "amdgpu" else intel_key(_address(number))
        total = draw(st.integers(2, 24)) * GIB + draw(st.integers(0, MIB))
        device = FakeDevice(uuid=key, total=total, reserved=0)
        strangers = int(total * draw(st.sampled_from([0.0, 0.2, 0.7])))
        gpus.append(Gpu(device, None, hides=told and draw(st.booleans()), strangers=strangers))
    return lambda root: KernelDriver(driver, gpus, told=told, root=root)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 24), st.sampled_from([0.25, 1.0]), st.booleans()),
        st.tuples(st.just("stranger"), st.integers(0, 5), st.sampled_from([0.0, 0.3, 1.0]), st.booleans()),
        st.tuples(st.just("end"), st.integers(0, 9), st.just(0.0), st.booleans()),
    ),
    min_size=2,
    max_size=12,
)


class Host:
    """The drawn machine, with a member of its ledger here and one in another pid namespace."""

    def __init__(
        self, driver: NvidiaDriver | KernelDriver, here: Ledger, elsewhere: Ledger, around: Surroundings
    ) -> None:
        self.driver = driver
        self.gpus = driver.gpus
        self.members = (here, elsewhere)
        self.around = around
        self.pids: dict[str, int] = {}
        self.granted: dict[str, tuple[Ledger, Gpu, int]] = {}
        # For two seconds after its end a grant may still have its memory, and a stranger that takes as much is not told
        # from it where process ids are hidden. Looks here come later than that.
        self.now = time.time() + 3600
        offer = driver.offer(around)
        inventory = Inventory(resources=offer.resources, unknown=offer.unknown, unknown_cells=offer.unknown_cells)
        self.registered = here.transact(lambda tx: registry.register(tx, inventory))

    def look(self) -> None:
        """Look as before a grant: all that the driver tells is written into the ledger."""
        self.now += 1
        lineage = {1: ProcessInfo(started=0.0, parent=0, name="init")}
        lineage |= {pid: ProcessInfo(started=0.0, parent=1, name="python") for pid in (STRANGER, os.getpid())}
        for grant, (ledger, _, _) in self.granted.items():
            if ledger is self.members[0]:
                lineage[self.pids[grant]] = ProcessInfo(started=0.0, parent=os.getpid(), name="train")
        seen = GpusSeen(reading=self.driver.use(self.pids), lineage=lineage, around=self.around, at=self.now)
        self.members[0].transact(lambda tx: note_gpus(tx, seen, SETTINGS))

    def ask(self, gib: int, share: float, elsewhere: bool) -> None:
        """Ask for memory, or for a whole GPU with 24; what is granted is used in part or in full."""
        self.look()
        ledger, grant = self.members[elsewhere], f"g{len(self.pids)}"
        requirement = declare(gpus=1) if gib == 24 else declare(gpu_mem=gib)
        if not is_possible(ledger.read(lambda tx: tx.book()), requirement):
            return
        shape = Shape(requirement=requirement)
        ledger.transact(
            lambda tx: tx.apply(Asked(shape=shape, ticket=Ticket(id=grant, seq=tx.next_seq())), Request(label=grant))
        )
        held = next((each for each in ledger.read(lambda tx: tx.book()).grants if each.id == grant), None)
        if held is None:
            ledger.transact(lambda tx: tx.apply(Left(ticket=grant)))
            event("a request waits")
            return
        ((cell, amount),) = held.holdings
        known = self.registered.cell(cell)
        assert known is not None
        gpus = [gpu for gpu in self.gpus if gpu.device.uuid == known.key]
        assert len(gpus) == 1, f"{known.key} is granted, and {len(gpus)} GPUs have that UUID"
        self.pids[grant] = (ELSEWHERE if elsewhere else OURS) + len(self.pids)
        self.granted[grant] = (ledger, gpus[0], amount)
        self.check(gpus[0])
        event("a grant beside strangers" if gpus[0].strangers else "a grant")
        # Of holders that cannot be told from strangers, no more is known than that they may use all they were granted.
        told = not (elsewhere or gpus[0].hides or gpus[0].device.processes_error or self.around.why_pids_mislead)
        gpus[0].holders[grant] = min(gpus[0].room, int(amount * MIB * (share if told else 1)))

    def check(self, gpu: Gpu) -> None:
        """What is granted on a GPU and what strangers use of it fit into it together."""
        granted = sum(amount for _, on, amount in self.granted.values() if on is gpu) * MIB
        has = gpu.device.total - gpu.device.reserved
        assert granted + gpu.strangers <= has + CRUMBS_MIB * MIB, f"{granted} granted, {gpu.strangers} taken of {has}"

    def end(self, which: int) -> None:
        """End one of the grants; its process gives its memory back."""
        if self.granted:
            grant = sorted(self.granted)[which % len(self.granted)]
            ledger, gpu, _ = self.granted.pop(grant)
            gpu.holders.pop(grant)
            ledger.transact(lambda tx: tx.apply(Ended(grant=grant)))

    def stranger(self, which: int, share: float) -> None:
        """Let strangers take a part of what is left of a GPU, or leave it."""
        gpu = self.gpus[which % len(self.gpus)]
        gpu.strangers = 0 if share == 0 else gpu.strangers + int(gpu.room * share)


def play(
    make: Callable[[Path], NvidiaDriver | KernelDriver], plays: list[tuple[str, int, float, bool]], own_pids: bool
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        member(Path(folder) / "state") as (here, _),
        member(Path(folder) / "state") as (elsewhere, owner),
    ):
        here.transact(lambda tx: tx.run("UPDATE owner SET namespace='pid:[7]' WHERE id=?", owner.id))
        driver = make(Path(folder))
        # Without a count and in a pid namespace of its own nothing at all is known of strangers.
        host = Host(driver, here, elsewhere, Surroundings(own_pids=own_pids and driver.told))
        for kind, which, share, flag in plays:
            if kind == "ask":
                host.ask(which, share, flag)
            elif kind == "stranger":
                host.stranger(which, share)
            else:
                host.end(which)


@effort(120)
@given(cards=machines(), plays=steps, own_pids=st.booleans())
def test_what_is_granted_and_what_strangers_use_fit_into_what_there_is(
    cards: list[list[Gpu]], plays: list[tuple[str, int, float, bool]], own_pids: bool
):
    play(lambda _: NvidiaDriver(cards), plays, own_pids)


@effort(60)
@given(make=kernel_drivers(), plays=steps, own_pids=st.booleans())
def test_of_other_vendors_too(
    make: Callable[[Path], KernelDriver], plays: list[tuple[str, int, float, bool]], own_pids: bool
):
    play(make, plays, own_pids)

"""The driver's word on a card's processes, written into a ledger: whose memory it is, and who may be ended for it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.processes import member
from tests.unit.detect.gpu.test_amd import ONE, plug
from tests.unit.system.test_container import link, put

from prefect_slots.detect.gpu.usage import DeviceUse, UseReading
from prefect_slots.ledger import registry, usage
from prefect_slots.ledger.store import Ledger
from prefect_slots.model.book import Asked, Shape, Ticket
from prefect_slots.model.declaration import Declarations, GpuRules
from prefect_slots.model.request import Request
from prefect_slots.model.requirement import declare
from prefect_slots.model.resource import GPU_MEM, Cell, Inventory, Resource, Scope
from prefect_slots.settings import Settings, load_settings
from prefect_slots.system.container import Surroundings
from prefect_slots.system.processes import ProcessInfo
from prefect_slots.usage.gpus import GpusSeen, note_gpus, read_gpus
from prefect_slots.usage.overuse import Noted

GIB = 2**30
STRANGER, COMMAND = 100, 200
HERE = Surroundings()
LINEAGE = {
    1: ProcessInfo(started=0.0, parent=0, name="init"),
    STRANGER: ProcessInfo(started=0.0, parent=1, name="train"),
    os.getpid(): ProcessInfo(started=0.0, parent=1, name="python"),
    COMMAND: ProcessInfo(started=0.0, parent=os.getpid(), name="infer"),
}


class Card:
    """A ledger with one card of 24 GiB, and what the driver tells of it."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.settings = load_settings(env={})
        card = Resource(
            name=GPU_MEM, unit="MiB", cells=(Cell(key="GPU-a", capacity=24576),), scope=Scope.WORKER, origin="nvml"
        )
        ledger.transact(lambda tx: registry.register(tx, Inventory(resources=(card,))))

    def hold(self, ticket: str, gib: int) -> None:
        shape = Shape(requirement=declare(gpu_mem=gib), priority=0)
        request = Request(label=ticket)
        self.ledger.transact(
            lambda tx: tx.apply(Asked(shape=shape, ticket=Ticket(id=ticket, seq=tx.next_seq())), request)
        )

    def told(self, *, between: bool = False, around: Surroundings = HERE, **gib: int) -> Noted:
        used = {{"stranger": STRANGER, "command": COMMAND}[name]: amount * GIB for name, amount in gib.items()}
        device = DeviceUse(uuid="GPU-a", used=sum(used.values()), processes=used)
        seen = GpusSeen(
            reading=UseReading(devices=(device,)), lineage=LINEAGE, tokens={}, around=around, at=time.time()
        )
        return self.ledger.transact(lambda tx: note_gpus(tx, seen, self.settings, between=between))

    @property
    def foreign(self) -> int:
        (cell,) = self.ledger.read(lambda tx: tx.book()).cells
        return cell.foreign


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Card]:
    with member(tmp_path) as (ledger, _):
        yield Card(ledger)


def test_a_grant_whose_owner_has_died_makes_nobody_else_s_process_ours(card: Card):
    # Draws of others go on under it, so that it outlives its owner.
    card.hold("outlives", 2)
    card.ledger.transact(lambda tx: tx.run("DELETE FROM owner"))
    assert card.told(stranger=4).excesses == ()
    assert card.foreign == 4096


def test_a_command_is_ended_only_for_what_two_looks_in_a_row_have_shown(card: Card):
    card.hold("run", 2)
    card.ledger.transact(lambda tx: usage.note_command(tx, COMMAND, 1.0))
    ended: list[bool] = []
    for used in (3, 1, 3, 3):
        ended += [excess.may_be_ended for excess in card.told(command=used).excesses]
    assert ended == [False, False, True]


def test_c02_a_program_of_that_number_in_another_namespace_draws_nothing(card: Card, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(LINEAGE, STRANGER, ProcessInfo(started=0.0, parent=1, name="Xorg"))
    card.settings = Settings(declarations=Declarations(gpus=GpuRules(display_mib=2048)))
    display = "SELECT display FROM cell"
    card.told(stranger=1)
    assert card.ledger.read(lambda tx: tx.value(display)) == 1024
    card.told(stranger=1, around=Surroundings(own_pids=True))
    assert card.ledger.read(lambda tx: tx.value(display)) == 0


def test_a_look_for_one_decision_makes_less_free_and_counts_no_overuse(card: Card):
    card.hold("run", 2)
    card.ledger.transact(lambda tx: usage.note_command(tx, COMMAND, 1.0))
    for _ in range(3):
        assert card.told(command=3, stranger=4, between=True) == Noted()
    assert card.foreign == 5 * 1024
    assert card.ledger.read(usage.read_spent) == {}


@pytest.mark.parametrize(
    ("ignore", "foreign"), [([], 4096), (["train"], 0), ([STRANGER], 0), (["trai", STRANGER + 1], 4096)]
)
def test_programs_and_processes_that_are_ignored_take_nothing(card: Card, ignore: list[str | int], foreign: int):
    card.settings = Settings(declarations=Declarations(gpus=GpuRules(ignore=tuple(ignore))))
    card.told(stranger=4)
    assert card.foreign == foreign


def test_what_others_use_of_amds_cards_is_not_free_and_what_ours_use_is_reserved_already(card: Card, tmp_path: Path):
    root = tmp_path / "root"
    files = {"mem_info_vram_total": str(64 * GIB), "unique_id": ONE.unique_id}
    link(root / "proc/self/ns/pid", "pid:[4026531836]")
    link(root / f"proc/{os.getpid()}/fd/5", "/dev/dri/renderD128")
    put(root, {f"proc/{os.getpid()}/fdinfo/5": "drm-client-id: 1\ndrm-memory-vram: 3 MiB\n"})
    amd = Resource(name=GPU_MEM, unit="MiB", cells=(Cell(key=ONE.key, capacity=65536),), origin="amdgpu")
    card.ledger.transact(lambda tx: registry.register(tx, Inventory(resources=(amd,))))
    card.hold("ours", 2)

    def look(used: str) -> Noted:
        plug(root, 0, ONE.address, **files, mem_info_vram_used=used)
        seen = read_gpus(time.time(), {ONE.key}, root)
        for name in ("card0", "renderD128"):
            (root / f"sys/class/drm/{name}/device").unlink()
        return card.ledger.transact(
            lambda tx: note_gpus(tx, seen, load_settings(env={"PREFECT_SLOTS_STALE_AFTER": "1"}))
        )

    def foreign() -> int:
        (row,) = card.ledger.read(lambda tx: tx.all("SELECT outside FROM cell WHERE key=?", ONE.key))
        return row[0]

    assert (look(str(10 * GIB + 3 * 2**20)).stale, foreign()) == ((), 10 * 1024)
    ((_, spent),) = card.ledger.read(usage.read_spent).items()
    assert (spent.peak, spent.declared) == (3, 2048)
    (stale,) = look("?").stale
    assert (stale.why, foreign()) == ("its memory in use cannot be read", 10 * 1024)

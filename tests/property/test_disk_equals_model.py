"""Law 9: the ledger on disk equals the pure model after any sequence of operations, whoever of its owners made them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.property.effort import effort
from tests.property.stories import Story, all_of_a_line_stand_aside, long_lines
from tests.support.interleavings import ask, cells
from tests.support.processes import member

from prefect_slots.ledger.book import read_book
from prefect_slots.ledger.store import Ledger
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.model.amount import Exclusive
from prefect_slots.model.book import Asked, Book, CellState, Change, Changed, Event, Left, Resumed
from prefect_slots.model.request import Request
from prefect_slots.testing.bookkeeping import BookKeeper, MemoryLedger
from prefect_slots.testing.machines import BookMachine
from prefect_slots.testing.play import Play
from prefect_slots.testing.strategies import Situation

EVERYTHING = 1_000_000


class DiskLedger:
    """A real ledger with two owners in it, who take turns."""

    def __init__(self, cells: tuple[CellState, ...], *, max_overtakes: int) -> None:
        self.stack = ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.members = [self.stack.enter_context(member(folder / "state", max_overtakes)) for _ in range(2)]
        self.equip(cells, 0.0)

    def _turn(self) -> Ledger:
        self.members.reverse()
        return self.members[0][0]

    def apply(self, event: Event, now: float) -> tuple[Change, ...]:
        ledger = self._turn()

        def write(tx: Transaction) -> None:
            tx.moment = now
            match event:
                case Resumed(ticket=ticket):
                    tx.resume(ticket.id)
                case Left(ticket=ticket):
                    tx.leave(ticket)
                case Asked():
                    tx.apply(event, Request(label="asks"))
                case _:
                    tx.apply(event)

        ledger.transact(write)
        return ()

    def equip(self, cells: tuple[CellState, ...], now: float) -> tuple[Change, ...]:
        ledger = self._turn()

        def write(tx: Transaction) -> None:
            tx.moment = now
            tx.run("DELETE FROM cell")
            for cell in cells:
                tx.run(
                    "INSERT INTO cell (resource, number, key, label, compute_capability, capacity, "
                    "foreign_use, outside, exclusive) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    *(cell.id.resource, cell.id.number, f"key-{cell.id.number}"),
                    *(cell.label, cell.compute_capability, cell.capacity),
                    *(cell.foreign // 2, cell.foreign - cell.foreign // 2),
                    isinstance(cell.capacity, Exclusive),
                )
            tx.apply(Changed())

        ledger.transact(write)
        return ()

    def book(self) -> Book:
        return self._turn().read(lambda tx: read_book(tx, EVERYTHING))

    def rows(self) -> dict[str, int]:
        """What is left besides cells, owners and history."""
        count = "SELECT (SELECT COUNT(*) FROM ticket), (SELECT COUNT(*) FROM shape), (SELECT COUNT(*) FROM held), "
        row = self._turn().read(lambda tx: tx.one(count + "(SELECT COUNT(*) FROM holding)"))
        return dict(zip(("ticket", "shape", "held", "holding"), row or (), strict=True))

    def close(self) -> None:
        self.stack.close()


class DiskEqualsModel(BookMachine):
    disk: DiskLedger

    def keepers(self, situation: Situation) -> Sequence[BookKeeper]:
        self.disk = DiskLedger(situation.cells, max_overtakes=situation.max_overtakes)
        return [*super().keepers(situation), self.disk]

    def teardown(self) -> None:
        if hasattr(self, "disk"):
            try:
                self.play.drain([])
                assert not any(self.disk.rows().values()), f"rows are left: {self.disk.rows()}"
            finally:
                self.disk.close()


TestDiskEqualsModel = DiskEqualsModel.TestCase
TestDiskEqualsModel.settings = effort(45, steps=30)


@pytest.mark.parametrize("allowed", [0, 1, 20])
@pytest.mark.parametrize("story", [long_lines, all_of_a_line_stand_aside], ids=lambda story: story.__name__)
def test_the_disk_tells_the_same_story(story: Story, allowed: int) -> None:
    machine = cells(g=[4, 4], mem=[9])
    disk = DiskLedger(machine, max_overtakes=allowed)
    story(Play(machine, [MemoryLedger(machine, max_overtakes=allowed), disk]))
    disk.close()


@pytest.mark.parametrize("allowed", [0, 1, 20])
def test_a_long_line_is_served_in_order_from_its_front(allowed: int) -> None:
    machine = cells(gpu=[4, 4], mem=[9])
    disk = DiskLedger(machine, max_overtakes=allowed)
    play = Play(machine, [MemoryLedger(machine, max_overtakes=allowed), disk])
    for number in range(15):
        play.ask(ask(gpu=1 + number % 3), priority=number % 2)
        play.ask(ask(gpu=2, mem=3))
    while play.book.grants:
        play.end(7)
    assert not any(disk.rows().values())
    disk.close()


def test_a_refused_draw_leaves_no_row_once_its_owner_has_read_it() -> None:
    machine = cells(gpu=[4])
    disk = DiskLedger(machine, max_overtakes=1)
    play = Play(machine, [MemoryLedger(machine, max_overtakes=1), disk])
    play.ask(ask(gpu=4))
    play.ask_inside(0, ask(gpu=4))
    refused = play.ask_inside(0, ask(gpu=1))
    assert refused is not None
    play.end(0)
    ledger, _ = disk.members[0]
    assert ledger.read(lambda tx: tx.all("SELECT ticket FROM refusal")) == [(refused,)]
    ledger.transact(lambda tx: tx.leave(refused))
    assert ledger.read(lambda tx: tx.all("SELECT ticket FROM refusal")) == []
    play.drain([])
    disk.close()

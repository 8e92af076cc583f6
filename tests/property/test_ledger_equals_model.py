"""Law 9: after any sequence of events the ledger on disk holds the same book as the pure model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from tests.property.effort import effort
from tests.property.stories import Story, all_of_a_line_stand_aside, long_lines

from prefect_slots.ledger.rows import Asker, read_book
from prefect_slots.ledger.store import Ledger
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.model.book import Book, CellState, Change, Changed, Event
from prefect_slots.scheduling.decide import decide
from prefect_slots.testing.bookkeeping import BookKeeper, MemoryLedger
from prefect_slots.testing.interleavings import cells
from prefect_slots.testing.machines import BookMachine
from prefect_slots.testing.play import Play
from prefect_slots.testing.strategies import Situation

EVERYBODY = 1_000_000
SOMEBODY = Asker(owner="somebody", label="a test")


class DiskLedger:
    """The ledger as a `BookKeeper`; it keeps its own time."""

    def __init__(self, folder: Path, situation: Situation) -> None:
        self._ledger = Ledger(folder, partial(decide, max_overtakes=situation.max_overtakes))
        self.equip(situation.cells, 0.0)

    def close(self) -> None:
        self._ledger.close()

    def apply(self, event: Event, _now: float) -> tuple[Change, ...]:
        self._ledger.transact(lambda tx: tx.apply(event, SOMEBODY))
        return ()

    def equip(self, cells: tuple[CellState, ...], _now: float) -> tuple[Change, ...]:
        def write(tx: Transaction) -> None:
            tx.run("DELETE FROM cell")
            for cell in cells:
                tx.run(
                    "INSERT INTO cell (resource, number, key, label, capacity, foreign_use) VALUES (?, ?, ?, '', ?, ?)",
                    *(*cell.id, str(cell.id.number), cell.capacity, cell.foreign),
                )
            tx.apply(Changed())

        self._ledger.transact(write)
        return ()

    def book(self) -> Book:
        return self._ledger.read(lambda tx: read_book(tx, EVERYBODY))


class LedgerEqualsModel(BookMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="prefect-slots-")
        self.disk: DiskLedger | None = None

    def keepers(self, situation: Situation) -> Sequence[BookKeeper]:
        self.disk = DiskLedger(Path(self.folder.name), situation)
        return [*super().keepers(situation), self.disk]

    def teardown(self) -> None:
        if self.disk is not None:
            self.disk.close()
        self.folder.cleanup()


@pytest.mark.parametrize("allowed", [0, 1, 20])
@pytest.mark.parametrize("story", [long_lines, all_of_a_line_stand_aside], ids=lambda story: story.__name__)
def test_the_ledger_tells_the_same_story(story: Story, allowed: int, tmp_path: Path) -> None:
    situation = Situation(cells=cells(g=[4, 4], mem=[9]), wishes=(), max_overtakes=allowed)
    disk = DiskLedger(tmp_path, situation)
    story(Play(situation.cells, [MemoryLedger(situation.cells, max_overtakes=allowed), disk]))
    disk.close()


TestLedgerEqualsModel = LedgerEqualsModel.TestCase
TestLedgerEqualsModel.settings = effort(150)

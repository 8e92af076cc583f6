"""What a worker says of its machine: what changed of each cell, and nothing of what did not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prefect_slots.acquire.differences import changes
from prefect_slots.model.amount import Exclusive
from prefect_slots.model.book import CellId
from prefect_slots.model.registered import Registered, RegisteredCell, RegisteredResource
from prefect_slots.model.resource import Scope

CARD = RegisteredCell(
    id=CellId("gpu_mem", 0), key="GPU-a", label="A100", position=0, capacity=24576, foreign=0, present=True, lost=False
)
LOST, GONE = replace(CARD, lost=True), replace(CARD, present=False)


def machine(*cells: RegisteredCell) -> Registered:
    resource = RegisteredResource(name="gpu_mem", unit="MiB", scope=Scope.WORKER, origin="nvml", cells=cells)
    return Registered(edition=None, machine="m", resources=(resource,))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ((), (CARD,), "is new, with 24GiB"),
        ((CARD,), (replace(CARD, capacity=1024),), "now has 1GiB"),
        ((CARD,), (replace(CARD, capacity=Exclusive(24576)),), "now has 24GiB, for one holder at a time"),
        ((CARD,), (LOST,), "is broken; nothing more is granted there"),
        ((CARD,), (GONE,), "is gone; nothing more is granted there"),
        ((LOST,), (GONE,), "is gone; nothing more is granted there"),
        ((LOST,), (CARD,), "is back, with 24GiB"),
        ((GONE,), (CARD,), "is back, with 24GiB"),
    ],
)
def test_each_change_is_told(before: tuple[RegisteredCell, ...], after: tuple[RegisteredCell, ...], words: str):
    assert list(changes(machine(*before), machine(*after))) == [f"gpu_mem 0 (A100) {words}"]


@pytest.mark.parametrize("cell", [CARD, LOST, GONE, replace(CARD, foreign=5)])
def test_what_stays_as_it_is_is_not_told(cell: RegisteredCell):
    assert list(changes(machine(cell), machine(replace(cell, foreign=0, position=3)))) == []

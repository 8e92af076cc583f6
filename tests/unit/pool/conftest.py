"""A machine of its own for every test here, and a pool on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.processes import SharedMachine
from tests.unit.local_machine import machine, outside_any_grant

from prefect_slots import SlotPool

__all__ = ["machine", "outside_any_grant"]


@pytest.fixture
def pool(machine: SharedMachine) -> Iterator[SlotPool]:
    """A pool; at the end nothing of it may be left in the ledger but its owner."""
    with SlotPool() as made:
        yield made
    machine.until_empty(but=("owner",))

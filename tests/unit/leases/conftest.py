"""A machine with a real ledger and a fake server, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.processes import member
from tests.support.virtual_time import VirtualTime
from tests.unit.leases.scene import Scene

from prefect_slots.system import clock


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    """The clock of the ledger, of the server and of the loop."""
    time = VirtualTime()
    monkeypatch.setattr(clock, "boot_clock", time)
    return time


@pytest.fixture
def scene(tmp_path: Path, time: VirtualTime) -> Iterator[Scene]:
    """A registered machine with two scanners of its own and two seats of the fleet's."""
    with member(tmp_path / "state") as (ledger, _):
        yield Scene(ledger, time)

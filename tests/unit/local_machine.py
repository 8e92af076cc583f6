"""Fixtures: a machine of its own for every test in this process, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.processes import SharedMachine

from prefect_slots import current_grant
from prefect_slots.acquire.engine import close_engine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedMachine]:
    """This process takes part in a machine with two cards of 24 GiB, two seats of matlab, three of ansys, a scanner."""
    shared = SharedMachine(tmp_path)
    for name, value in shared.settings.items():
        monkeypatch.setenv(name, value)
    yield shared
    close_engine()


@pytest.fixture(autouse=True)
def outside_any_grant() -> Iterator[None]:
    """A grant that a test leaves behind in this thread would serve the next one."""
    yield
    assert current_grant() is None

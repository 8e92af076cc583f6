"""A ledger with two owners of this process, for the tests of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.processes import member
from tests.unit.ledger.members import INVENTORY, Member, Pair

from prefect_slots.ledger import registry


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state folder."""
    return tmp_path / "state"


@pytest.fixture
def members(state: Path) -> Iterator[Pair]:
    """Two owners of a machine with two cards and two seats; a later arrival may pass an earlier one once."""
    with ExitStack() as stack:
        pair = [Member(*stack.enter_context(member(state, max_overtakes=1))) for _ in range(2)]
        pair[0].ledger.transact(lambda tx: registry.register(tx, INVENTORY))
        yield pair[0], pair[1]

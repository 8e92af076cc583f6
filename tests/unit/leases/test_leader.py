"""The offer to look after a machine: it ends when it is told to, whatever it was about to do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.support.processes import member

from prefect_slots.leases.leader import ROLE, Leader
from prefect_slots.ledger import election
from prefect_slots.system import clock


@pytest.mark.parametrize("steps", range(6))
def test_who_is_nudged_as_it_ends_still_ends(tmp_path: Path, steps: int) -> None:
    async def scenario() -> None:
        with member(tmp_path) as (elected, _), member(tmp_path) as (ledger, _):
            assert elected.transact(lambda tx: election.take(tx, ROLE, clock.boot_clock()))
            # Another process has been elected, so that it asks no server.
            nobody = cast("Any", SimpleNamespace())
            leader = Leader(ledger, nobody, nobody, "http://127.0.0.1:9/api", refresh_seconds=30)
            for _ in range(5):
                await asyncio.sleep(0)
            leader.nudge()
            for _ in range(steps):
                await asyncio.sleep(0)
            closing = asyncio.create_task(leader.close())
            done, _ = await asyncio.wait([closing], timeout=2)
            assert done == {closing}

    asyncio.run(scenario())

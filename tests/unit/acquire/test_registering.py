"""Registering beside other work: while a licence server hangs, whoever shares the event loop goes on."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from pathlib import Path

from prefect_slots.acquire.registering import register_everywhere
from prefect_slots.errors import SlotsError
from prefect_slots.ledger.folder import open_folder
from prefect_slots.ledger.store import Ledger
from prefect_slots.model.declaration import Declarations, GpuRules, HostRules, LicenseServer
from prefect_slots.scheduling.decide import decide
from prefect_slots.settings import Settings


def test_a_registration_that_waits_for_a_licence_server_does_not_stop_the_loop(tmp_path: Path):
    hanging = LicenseServer(
        vendor="flexnet", server="1@a", command=("/bin/sh", "-c", "exec sleep 60"), features=(("aa", "aa"),), timeout=3
    )
    declarations = Declarations(
        gpus=GpuRules(detect=False), host=HostRules(cpus=1, mem_mib=64), license_servers=(hanging,)
    )
    ledger = Ledger(open_folder(tmp_path / "state", {}), partial(decide, max_overtakes=20))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.05)

    async def both() -> int:
        ticking = asyncio.get_running_loop().create_task(tick())
        await asyncio.sleep(0)
        before = ticks
        with contextlib.suppress(SlotsError):
            await register_everywhere(
                ledger, Settings(declarations=declarations), url="http://127.0.0.1:9/api", dry_run=True
            )
        ticking.cancel()
        return ticks - before

    assert asyncio.run(both()) > 10
    ledger.close()

"""Registering beside other work: while a licence server hangs, whoever shares the event loop goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from prefect_slots.acquire.registration import Registration, register_everywhere, register_here
from prefect_slots.errors import SlotsError
from prefect_slots.ledger.folder import open_folder
from prefect_slots.ledger.store import Ledger
from prefect_slots.model.declaration import Declarations, GpuRules, HostRules, LicenseServer
from prefect_slots.scheduling.decide import decide
from prefect_slots.settings import Settings

Register = Callable[[Ledger, Settings], Awaitable[Registration]]

FIRST_USE = """
import sys, threading
from prefect_slots import requires

def use():
    with requires(cpus=1):
        pass

threading.Thread(target=use, daemon=True).start()
from pathlib import Path
from tests.support.polling import until
until(lambda: Path("asked").exists(), what="the question")
"""


@pytest.mark.parametrize(
    ("host", "register"),
    [
        ("ledger", partial(register_here, dry_run=True)),
        ("server", partial(register_everywhere, url="http://127.0.0.1:9/api", dry_run=True)),
    ],
)
def test_a_registration_that_waits_for_a_licence_server_does_not_stop_the_loop(
    tmp_path: Path, host: str, register: Register
):
    # Each asks a server of its own: what one has answered is kept for all.
    hanging = LicenseServer(
        vendor="flexnet", server=f"1@{host}", command=("/bin/sh", "-c", "exec sleep 60"), features=(("aa", "aa"),),
        timeout=2,
    )  # fmt: skip
    declarations = Declarations(
        gpus=GpuRules(detect=False), host=HostRules(cpus=1, mem_mib=64), license_servers=(hanging,)
    )
    ledger = Ledger(open_folder(tmp_path / "state"), partial(decide, max_overtakes=20))
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
            await register(ledger, Settings(declarations=declarations))
        ticking.cancel()
        return ticks - before

    assert asyncio.run(both()) > 10
    ledger.close()


def test_a_process_that_ends_while_its_first_request_looks_at_the_machine_waits_for_nothing(tmp_path: Path):
    (tmp_path / "prefect-slots.toml").write_text(
        '[settings]\ncoordination = "local"\n[gpus]\ndetect = false\n[license.aa]\ntype = "flexnet"\nserver = "1@a"\n'
        'timeout = 300\ncommand = ["/bin/sh", "-c", "touch asked; exec sleep 300"]\n'
    )
    env = {**os.environ, "PREFECT_SLOTS_STATE_DIR": str(tmp_path / "state")}
    env["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), env.get("PYTHONPATH", "")])
    child = subprocess.run([sys.executable, "-c", FIRST_USE], env=env, cwd=tmp_path, timeout=60, check=False)
    assert child.returncode == 0

"""Whatever shrinks under those who wait for it, whoever takes it: nobody is refused or dies, and all are served."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from tests.support.boxes import Box
from tests.support.card_scene import stranger
from tests.support.forked import Forked
from tests.support.license_tools import Tool
from tests.support.nvml_stub.library import build, environment
from tests.support.nvml_stub.machines import GIB, FakeDevice, FakeProcess, Machine
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer
from tests.support.processes import member
from tests.support.programs import Start, started

from prefect_slots.model.declaration import Declarations, GpuRules, LicenseServer
from prefect_slots.settings import Settings
from prefect_slots.usage.monitor import Monitor

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("faults")]

CONFIG = """
[settings]
worker = "{name}"
refresh_seconds = 1
use_seconds = 0.3
hold_seconds = 0
[host]
cpus = CPUS
mem = "MEM"
[license.matlab-{name}]
seats = 2
[license.ansys-{name}]
seats = SEATS
scope = "worker"
[license.aa-{name}]
type = "flexnet"
server = "27000@lic1"
command = COMMAND
feature = "aa"
[resources.scanner]
capacity = 1
[resources.encoder]
encoder_sessions = SEATS
[resources.scale]
devices = ["SCALES/*"]
[resources.scratch]
disk = "SCALES"
capacity = SEATS
"""
CARD = FakeDevice(uuid="GPU-a", reserved=0)


class Shrinking:
    """A machine on a server whose card, licence server and configuration tell what the test wants."""

    def __init__(self, folder: Path, server: PrefectServer, library: Path) -> None:
        self.server = server
        self.tool = Tool(folder / "tool")
        self._nvml = folder / "nvml"
        self.box = Box(folder, server.url, "")
        self.box.env |= {
            "NVML_STUB_FILE": str(self._nvml),
            "LD_LIBRARY_PATH": environment(library, Machine())["LD_LIBRARY_PATH"],
        }
        self.outsiders(0)
        self.card_users()
        self.aa = f"aa-{self.box.name}"
        # Instruments lie below /dev, where only shared memory is for everybody to write in.
        self.scales = Path(tempfile.mkdtemp(prefix="scales-", dir="/dev/shm"))
        self.needs = {
            "gpu_mem": {"gpu_mem": 20},
            "mem": {"mem": 6},
            "cpus": {"cpus": 2},
            "scanner": {"scanner": 1},
            "encoder": {"encoder": 2},
            "scale": {"scale": 1},
            "scratch": {"scratch": 2},
            **{name: {"license": {name: 2}} for name in (self.box.matlab, f"ansys-{self.box.name}", self.aa)},
        }

    @property
    def everything(self) -> dict[str, object]:
        plain = {"gpu_mem": 20, "mem": 6, "cpus": 2, "scanner": 1, "encoder": 2, "scale": 1, "scratch": 2}
        return {**plain, "license": {name: 2 for name in self.needs if name not in plain}}

    def card_users(self, *processes: FakeProcess) -> None:
        used = sum(process.memory for process in processes)
        new = self._nvml.with_suffix(".new")
        new.write_text(Machine(cards=(replace(CARD, used=used, processes=processes),)).text())
        new.replace(self._nvml)

    def outsiders(self, seats: int) -> None:
        self.tool.play(text=f"Users of aa:  (Total of 2 licenses issued;  Total of {seats} licenses in use)\n")

    def register(self, *, cpus: int, mem: str, seats: int, scales: bool) -> None:
        scale = self.scales / "usb-scale-1"
        if scales:
            scale.touch()
        else:
            scale.unlink()
        text = CONFIG.replace("{name}", self.box.name).replace("COMMAND", json.dumps(list(self.tool.command)))
        for word, value in (("CPUS", str(cpus)), ("MEM", mem), ("SEATS", str(seats)), ("SCALES", str(self.scales))):
            text = text.replace(word, value)
        self.box.config.write_text(text)
        env = {**os.environ, **self.box.env}
        command = [sys.executable, "-m", "prefect_slots", "register"]
        subprocess.run(command, env=env, cwd=self.box.config.parent, check=True, capture_output=True)

    def look_at_seats(self) -> None:
        """Ask the licence server now and not when its answer has become old."""
        table = LicenseServer(
            vendor="flexnet",
            server="27000@lic1",
            command=self.tool.command,
            features=((self.aa, "aa"),),
            poll_seconds=0,
        )
        declarations = Declarations(gpus=GpuRules(detect=False), license_servers=(replace(table, grace_seconds=0),))
        with member(self.box.state) as (ledger, _):
            asyncio.run(Monitor(ledger, Settings(declarations=declarations)).round())

    def set_limit(self, name: str, limit: int) -> None:
        async def update() -> None:
            async with self.server.client() as client:
                await client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=limit))

        asyncio.run(update())

    def limit(self, name: str) -> int:
        async def read() -> int:
            async with self.server.client() as client:
                return (await client.read_global_concurrency_limit_by_name(name)).limit

        return asyncio.run(read())

    def take_by_hand(self, name: str) -> str:
        async def take() -> str:
            async with self.server.client() as client:
                taken = await client.increment_concurrency_slots_with_lease([name], 1, "concurrency", 300.0)
                return str(taken.json()["lease_id"])

        return asyncio.run(take())

    def give_back_by_hand(self, lease: str) -> None:
        async def give() -> None:
            async with self.server.client() as client:
                await client.release_concurrency_slots_with_lease(uuid.UUID(lease))

        asyncio.run(give())

    def blocked(self, resource: str) -> int:
        (row,) = self.box.run_sql(f"SELECT foreign_use + outside FROM cell WHERE resource='{resource}' AND present")
        return row[0]


Fork = Callable[..., Forked]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def scene(prefect_server: PrefectServer, tmp_path: Path, library: Path) -> Iterator[Shrinking]:
    made = Shrinking(tmp_path, prefect_server, library)
    try:
        made.register(cpus=2, mem="8GiB", seats=3, scales=True)
        yield made
    finally:
        shutil.rmtree(made.scales)


@pytest.fixture
def fork(scene: Shrinking) -> Iterator[Fork]:
    """Makes processes that ask for something; those that are left at the end are killed."""
    forked: list[Forked] = []

    def make(**needs: Any) -> Forked:
        forked.append(Forked(scene.box, needs))
        return forked[-1]

    yield make
    for child in forked:
        with suppress(ValueError):  # it has ended, as it should have
            child.process.kill()


@pytest.fixture
def start(scene: Shrinking) -> Iterator[Start]:
    with started(scene.box) as start:
        yield start


@pytest.mark.slow
def test_whatever_shrinks_under_who_waits_for_it_nobody_is_refused_and_all_are_served_when_it_grows(
    scene: Shrinking, start: Start, fork: Fork
):
    box = scene.box
    scanner = f"scanner:{box.name}"
    holder = start()
    holder.enter(**scene.everything)
    waiters = {name: fork(**needs) for name, needs in scene.needs.items()}
    until(lambda: box.rows("ticket") == len(waiters), 60, what="all of them waiting")
    scene.register(cpus=1, mem="4GiB", seats=1, scales=False)
    scene.set_limit(f"license:{box.matlab}", 1)
    scene.outsiders(2)
    scene.look_at_seats()
    with stranger() as other:
        scene.card_users(FakeProcess(pid=other, memory=12 * GIB))
        until(lambda: scene.blocked("gpu_mem") == 12 * 1024, what="the stranger on the card")
        assert scene.blocked(f"license.{scene.aa}") == 2
        assert scene.limit(f"gpu-mem:{box.name}") == 24 * 1024, "what others use makes no limit smaller"
        assert scene.limit(f"license:{scene.aa}") == 2
        holder.leave()
        assert waiters["scanner"].holds(), "what did not shrink"
        waiters["scanner"].leave()
        assert waiters.pop("scanner").ended() == 0
        by_hand = scene.take_by_hand(scanner)
        waiters["scanner"] = fork(scanner=1)
        until(lambda: box.rows("ticket") == len(waiters), 60, what="all that remain waiting")
        until(lambda: scene.blocked("scanner") == 1, what="the scanner's foreign use")
        looks = box.run_sql("SELECT seen_at FROM outside WHERE resource='gpu_mem'")
        until(lambda: box.run_sql("SELECT seen_at FROM outside WHERE resource='gpu_mem'") > looks, what="another look")
        assert box.rows("ticket") == len(waiters)
        assert all(waiter.process.is_alive() for waiter in waiters.values())
        assert box.rows("holding") == 0
        scene.card_users()
    scene.set_limit(f"license:{box.matlab}", 2)
    scene.register(cpus=2, mem="8GiB", seats=3, scales=True)
    scene.give_back_by_hand(by_hand)
    scene.outsiders(0)
    scene.look_at_seats()
    for name, waiter in waiters.items():
        assert waiter.holds(), f"who waits for {name}"
        waiter.leave()
        assert waiter.ended() == 0
    holder.end()
    box.assert_nothing_is_left()

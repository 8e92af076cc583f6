"""One GPU, one ledger: two containers of one host, each with a state folder of its own, on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import pytest
from prefect.client.orchestration import PrefectClient
from tests.support.boxes import Box
from tests.support.nvml_stub.library import build, environment
from tests.support.nvml_stub.machines import FakeDevice, Machine
from tests.support.prefect_server import PrefectServer

from prefect_slots.errors import GpuTaken
from prefect_slots.limits.claim import read_claims
from prefect_slots.limits.client import Server
from prefect_slots.limits.plan import mirrors_in
from prefect_slots.limits.registration import RegistrationReport, read_all, register
from prefect_slots.model import Scope, Stock

T = TypeVar("T")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.xdist_group("server"),
    pytest.mark.skipif(os.getuid() != 0, reason="only root can make namespaces"),
]

CONFIG = """
[settings]
worker = "{name}"
auto_register = true
[gpus]
detect = false
[[gpus.card]]
uuid = "GPU-1111"
memory = "24GiB"
[[gpus.card]]
uuid = "GPU-2222"
memory = "24GiB"
[host]
cpus = 2
mem = "8GiB"
"""
HOLD = "echo holding; read line"


class Container(Box):
    """A machine whose commands run in namespaces of their own for host name and processes."""

    def __init__(self, folder: Path, url: str | None) -> None:
        folder.mkdir()
        super().__init__(folder, url, CONFIG)

    def command(self, *words: str) -> list[str]:
        inside = ["unshare", "-fup", "--mount-proc", "sh", "-ec", f'hostname {self.name}; exec "$@"', "sh"]
        return [*inside, sys.executable, "-m", "prefect_slots", *words]

    def does(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **self.env, **more}
        return subprocess.run(
            self.command(*words),
            env=env,
            cwd=self.config.parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def findings(self, about: str) -> list[dict[str, Any]]:
        found = json.loads(self.does("doctor", "--json").stdout)["findings"]
        return [each for each in found if each["about"] == about]


@pytest.fixture
def containers(prefect_server: PrefectServer, tmp_path: Path) -> tuple[Container, Container]:
    return Container(tmp_path / "a", prefect_server.url), Container(tmp_path / "b", prefect_server.url)


def test_the_second_ledger_of_a_gpu_is_refused_and_the_doctor_tells_both(
    containers: tuple[Container, Container], prefect_server: PrefectServer
):
    # C03
    a, b = containers
    holder = subprocess.Popen(
        a.command("run", "--gpu-mem", "16", "--", "sh", "-c", HOLD), env={**os.environ, **a.env},
        cwd=a.config.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        refused = b.does("run", "--gpu-mem", "16", "--", "true")
        assert refused.returncode == 125
        for words in (
            "GPU-1111",
            a.name,
            "-v /var/lib/prefect-slots",
            "PREFECT_SLOTS_STATE_DIR",
            "`partition`",
            "`exclude`",
        ):
            assert words in refused.stderr
        # Silence is no sign of death beside a slot that is held.
        prefect_server.grow_old(a.name, 3600)
        told = json.loads(b.does("register", "--json").stdout)
        assert (told["error"], told["machine"], told["gpus"]) == ("GpuTaken", a.name, ["GPU-1111", "GPU-2222"])
        assert {each["severity"] for each in b.findings("shared gpus")} == {"error"}
        [*there] = a.findings("shared gpus")
        assert [each["severity"] for each in there] == ["warning", "warning"]
        assert f"of machine '{b.name}' on host {b.name}) wanted GPU-1111 and was refused" in there[0]["found"]
    finally:
        holder.communicate("\n", timeout=60)


def test_two_ledgers_may_split_the_gpus_of_a_host(prefect_server: PrefectServer, tmp_path: Path):
    library = build(tmp_path)
    gpus = environment(library, Machine(cards=(FakeDevice(uuid="GPU-1111"), FakeDevice(uuid="GPU-2222"))))
    for name, exclude in (("a", "GPU-2"), ("b", "GPU-1")):
        each = Container(tmp_path / name, prefect_server.url)
        each.config.write_text(f'[settings]\nworker = "{each.name}"\n[gpus]\nexclude = ["{exclude}"]\n')
        done = each.does("register", "--json", **gpus)
        assert done.returncode == 0, done.stdout
        assert len([1 for limit in json.loads(done.stdout)["limits"]["entries"] if "gpu-mem" in limit["name"]]) == 2


def test_a_ledger_that_was_only_asleep_gets_nothing_of_a_gpu_that_was_taken_over(
    containers: tuple[Container, Container], prefect_server: PrefectServer
):
    a, b = containers
    a.register()
    with pytest.raises(GpuTaken):
        b.register()
    prefect_server.grow_old(a.name, 3600)
    b.register()
    late = a.does("run", "--gpu-mem", "16", "--", "true", PREFECT_SLOTS_AUTO_REGISTER="false")
    assert (late.returncode, "prefect-slots register" in late.stderr) == (125, True)
    with pytest.raises(GpuTaken):
        a.register()
    assert a.does("register", "--adopt").returncode == 0
    with pytest.raises(GpuTaken):
        b.register()


def test_of_ledgers_that_register_a_gpu_at_once_one_gets_it(prefect_server: PrefectServer):
    async def one(number: int) -> RegistrationReport:
        server = await Server.open(prefect_server.url)
        stocks = [Stock(resource="gpu_mem", scope=Scope.WORKER, cells=((0, 24),))]
        try:
            return await register(
                server, machine=f"once-{number}", ledger_id=f"ledger-once-{number}", host="h", stocks=stocks,
                cards={0: "GPU-at-once"}, boot="one",
            )  # fmt: skip
        finally:
            await server.close()

    async def scenario() -> list[RegistrationReport | BaseException]:
        return await asyncio.gather(*map(one, range(4)), return_exceptions=True)

    outcomes = asyncio.run(scenario())
    assert sum(isinstance(each, RegistrationReport) for each in outcomes) == 1
    assert sum(isinstance(each, GpuTaken) for each in outcomes) == 3


class Sleepy(Server):
    """A connection of a machine that falls asleep before its nth request, until it is woken."""

    async def lie_down(self, nth: int) -> None:
        self._left, self.asleep, self.awake = nth, asyncio.Event(), asyncio.Event()

    async def ask(self, call: Callable[[PrefectClient], Awaitable[T]], *, expected: Collection[int] = ()) -> T:
        self._left -= 1
        if self._left == 0:
            self.asleep.set()
            await self.awake.wait()
        return await super().ask(call, expected=expected)


@pytest.mark.parametrize("known", [False, True], ids=["its first", "a later"])
def test_at_whichever_point_of_a_registration_a_ledger_sleeps_no_gpu_has_two(
    prefect_server: PrefectServer, known: bool
):
    stocks = [Stock(resource="gpu_mem", scope=Scope.WORKER, cells=((0, 24),))]

    async def registers(server: Server, name: str, gpu: str) -> None:
        with contextlib.suppress(GpuTaken):
            await register(
                server, machine=name, ledger_id=f"ledger-{name}", host=name, stocks=stocks, cards={0: gpu},
                boot="one", heartbeat=30,
            )  # fmt: skip

    async def sleeps(nth: int) -> bool:
        name, gpu = f"sleeper-{known}-{nth}".lower(), f"GPU-sleep-{known}-{nth}"
        sleeper, other = await Sleepy.open(prefect_server.url), await Server.open(prefect_server.url)
        try:
            await sleeper.lie_down(0)
            if known:
                await registers(sleeper, name, gpu)
            await sleeper.lie_down(nth)
            registering = asyncio.create_task(registers(sleeper, name, gpu))
            falling = asyncio.create_task(sleeper.asleep.wait())
            await asyncio.wait((registering, falling), return_when=asyncio.FIRST_COMPLETED)
            fell = sleeper.asleep.is_set()
            if fell:
                prefect_server.grow_old(name, 3600)
                await registers(other, f"other-{name}", gpu)
                sleeper.awake.set()
            else:
                await registering
            while not registering.done():
                # The sign of life of the other's worker.
                await registers(other, f"other-{name}", gpu)
            await registering
            falling.cancel()
            claims = [each.claim for each in await read_claims(other) if each.claim is not None]
            owners = {claim.ledger_id for claim in claims if gpu in claim.cards.values()}
            counted = {ledger for _, limit, ledger in mirrors_in(await read_all(other)) if limit.endswith(f"{name}:0")}
            assert len(owners) == 1, (nth, owners)
            assert counted <= owners, (nth, counted, owners)
        finally:
            await sleeper.close()
            await other.close()
        return fell

    async def scenario() -> int:
        nth = 1
        while await sleeps(nth):
            nth += 1
        return nth

    assert asyncio.run(scenario()) > 3

"""Floating seats that people outside use, told by a vendor's program through the real query path, while tasks wait."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from tests.support.license_tools import Tool
from tests.support.processes import Puppet, SharedMachine, member

from prefect_slots.detect.licenses.client import DESK, Desk
from prefect_slots.detect.survey import survey
from prefect_slots.ledger import registry
from prefect_slots.ledger.store import Ledger
from prefect_slots.model.declaration import Declarations, GpuRules, LicenseServer
from prefect_slots.model.finding import Stale
from prefect_slots.model.resource import Inventory
from prefect_slots.settings import Settings
from prefect_slots.usage.foreign import Fleet
from prefect_slots.usage.monitor import Monitor

# The tasks do not look themselves.
CONFIG = '[settings]\nworker = "shared"\n[gpus]\ndetect = false\n'


def holds(user: str, host: str, seats: int) -> str:
    return "\n".join(f"    {user} {host} /dev/tty (v1.0) (lic1/27000 {n}), start Mon 1/5 9:00" for n in range(seats))


ME = getpass.getuser(), socket.gethostname()


class Server:
    """A licence server of four seats, and a machine that looks at it when told to."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.stale: list[Stale] = []
        self.tool = Tool(folder / "tool")
        table = LicenseServer(
            vendor="flexnet",
            server="27000@lic1",
            command=self.tool.command,
            features=(("aa", "aa"),),
            poll_seconds=0,
            timeout=2,
            grace_seconds=0,
        )
        declarations = Declarations(gpus=GpuRules(detect=False), license_servers=(table,))
        self.says()
        seen = survey(declarations, os.environ)
        ledger.transact(lambda tx: registry.name_machine(tx, "shared"))
        ledger.transact(lambda tx: registry.register(tx, seen.inventory))
        self._watching = Monitor(ledger, Settings(declarations=declarations, stale_after=2))
        self._watching.server = self

    def says(self, *holders: tuple[str, str, int], reserved: str = "") -> None:
        used = sum(seats for _, _, seats in holders) + (4 if reserved else 0)
        lines = "\n".join(holds(*holder) for holder in holders)
        lines += f"\n\t4 RESERVATIONs for {reserved} (lic1/27000)" if reserved else ""
        head = f"Users of aa:  (Total of 4 licenses issued;  Total of {used} licenses in use)"
        self.tool.play(text=f'{head}\n\n  "aa" v1.0, vendor: acme\n  floating license\n\n{lines}\n')

    async def fleet(self, resources: Collection[str]) -> Fleet:
        assert resources == {"license.aa"}
        return Fleet(counted={})

    def tell_stale(self, stale: Stale) -> None:
        self.stale.append(stale)

    def look(self) -> None:
        asyncio.run(self._watching.round())


@pytest.fixture
def machine(tmp_path: Path) -> SharedMachine:
    return SharedMachine(tmp_path, CONFIG)


@pytest.fixture
def server(machine: SharedMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    # Others may run the same tests at this moment, with a server of the same name.
    monkeypatch.setattr(DESK, "folder", tmp_path / "turns")
    with member(machine.state) as (ledger, _):
        yield Server(tmp_path, ledger)


def test_an_engineers_seats_keep_tasks_waiting_and_wake_them_when_they_are_given_back(
    server: Server, machine: SharedMachine
):
    server.says(("ann", "desktop", 2))
    server.look()
    with Puppet(machine) as one, Puppet(machine) as two:
        assert "granted" in one.enter(license={"aa": 2})
        two.ask(license="aa")
        machine.waiting(1)
        server.says(("ann", "desktop", 2), (*ME, 2))
        server.look()
        assert machine.all("SELECT outside FROM cell WHERE resource='license.aa'") == [(2,)], (
            "ours are not counted twice"
        )
        server.says(("ann", "desktop", 3), (*ME, 2))
        server.look()
        assert two.silent
        assert machine.count("ticket") == 1
        server.says(("ann", "desktop", 1), (*ME, 2))
        server.look()
        assert "granted" in two.reply()


@pytest.mark.parametrize("ours", [f"HOST {ME[1]}", f"USER {ME[0]}"])
def test_c07_seats_that_are_set_aside_for_us_are_ours_and_those_for_others_are_not(
    server: Server, machine: SharedMachine, ours: str
):
    server.says(reserved="GROUP other_team")
    server.look()
    with Puppet(machine) as task:
        task.ask(license={"aa": 4})
        machine.waiting(1)
        server.says(reserved=ours)
        server.look()
        assert "granted" in task.reply()


GROUP = """\
MPPDYNA          12/30/2031          -      4      4 |     0
LS-DYNA          12/30/2031          0      4      4 |     0
                   LICENSE GROUP     0      4      4 |     0
"""


def test_features_that_share_a_pool_of_seats_draw_on_it_alike(machine: SharedMachine, tmp_path: Path):
    tool = Tool(tmp_path / "tool", text=GROUP)
    tables = [
        LicenseServer(vendor="lsdyna", server="31010@lic1", command=tool.command, features=features)
        for features in ((("mpp", "MPPDYNA"), ("smp", "LS-DYNA")), (("zsmp", "ls-dyna"),))
    ]
    seen = survey(Declarations(gpus=GpuRules(detect=False), license_servers=tuple(tables)), os.environ, desk=Desk())
    assert [(each.name, each.also) for each in seen.inventory.resources if each.name.startswith("license.")] == [
        ("license.mpp", ("license.smp", "license.zsmp"))
    ]
    with member(machine.state) as (ledger, _):
        ledger.transact(lambda tx: registry.name_machine(tx, "shared"))
        ledger.transact(lambda tx: registry.register(tx, seen.inventory))
        # A server that does not answer changes nothing of it.
        silent = Inventory(unknown=frozenset({"license.mpp", "license.smp", "license.zsmp"}))
        ledger.transact(lambda tx: registry.register(tx, silent))
    with Puppet(machine) as one, Puppet(machine) as two:
        assert "granted" in one.enter(license={"mpp": 3})
        two.ask(license={"smp": 2})
        machine.waiting(1)
        one.leave()
        assert "granted" in two.reply()
        one.ask(license={"mpp": 1, "zsmp": 2})
        machine.waiting(1)
        two.leave()
        assert "granted" in one.reply()


def test_a_server_that_hangs_keeps_the_last_number_shows_its_age_and_gives_one_alarm(
    server: Server, machine: SharedMachine
):
    server.says(("ann", "desktop", 4))
    server.look()
    with Puppet(machine) as task:
        task.ask(license="aa")
        machine.waiting(1)
        server.tool.play(do="print", text="lmgrd is not running\n", code=1)
        for _ in range(3):
            server.look()
        (stale,) = server.stale
        assert (stale.machine, stale.resource, stale.misses) == ("shared", "license.aa", 2)
        assert task.silent
        shown = machine.all("SELECT used, misses, why<>'', seen_at IS NULL FROM outside")
        assert shown == [(4, 3, 1, 0)]
        server.says()
        server.look()
        assert "granted" in task.reply()
    assert machine.all("SELECT misses, why FROM outside") == [(0, "")]

"""A survey of a machine whose licences are counted by servers, through real programs."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

import prefect_slots.detect.licenses
from prefect_slots.detect.licenses.client import Desk, query_here
from prefect_slots.detect.survey import Survey, survey
from prefect_slots.model.amount import MAX_AMOUNT
from prefect_slots.model.declaration import Declarations, DeclaredLicense, GpuRules, HostRules, LicenseServer
from prefect_slots.model.resource import Scope

if TYPE_CHECKING:
    from tests.support.license_tools import Tool
    from tests.unit.detect.licenses.conftest import MakeTool

TEXT = """\
Users of aa:  (Total of 9 licenses issued;  Total of 4 licenses in use)
Users of bb:  (Uncounted, node-locked)
Users of cc:  (Total of 2 licenses issued;  Total of 2 licenses in use)
"""


def table(tool: Tool, server: str, *features: str, timeout: float = 30, headroom: int = 0) -> LicenseServer:
    return LicenseServer(
        vendor="flexnet",
        server=server,
        command=tool.command,
        features=tuple((feature, feature) for feature in features),
        timeout=timeout,
        headroom=headroom,
    )


def look(servers: Sequence[LicenseServer], *declared: DeclaredLicense) -> Survey:
    declarations = Declarations(
        gpus=GpuRules(detect=False),
        host=HostRules(cpus=1, mem_mib=64),
        licenses=declared,
        license_servers=tuple(servers),
    )
    return survey(declarations, os.environ, desk=Desk())


def seats(found: Survey) -> dict[str, int]:
    return {r.name: r.capacity for r in found.inventory.resources if r.name.startswith("license.")}


def test_seats_that_a_server_counts_stand_beside_declared_ones(tool: MakeTool):
    found = look([table(tool(text=TEXT), "1@a", "aa", "bb", "cc", headroom=1)], DeclaredLicense(feature="dd", seats=5))
    assert seats(found) == {"license.aa": 8, "license.bb": MAX_AMOUNT, "license.cc": 1, "license.dd": 5}
    assert found.inventory["license.aa"].scope is Scope.FLEET
    assert found.inventory.unknown == set()
    assert {finding.subject: finding.severity for finding in found.findings} == {
        "license.aa": "info",
        "license.bb": "info",
        "license.cc": "info",
    }


def test_a_server_that_hangs_leaves_its_own_seats_unknown_and_nobody_elses(tool: MakeTool):
    hanging, dead = tool(do="hang"), tool(text="Error getting status: No server. (-15,570)\n", code=241)
    found = look([
        table(hanging, "1@a", "aa", timeout=2),
        table(dead, "1@b", "ee"),
        table(tool(text=TEXT), "1@c", "cc"),
    ])  # fmt: skip
    assert seats(found) == {"license.cc": 2}
    assert found.inventory.unknown == {"license.aa", "license.ee"}
    errors = {f.subject: f.problem for f in found.findings if f.severity == "error"}
    assert errors == {
        "license.aa": "the licence server 1@a did not answer within 2 s",
        "license.ee": "the licence server 1@b cannot be asked: No server. (-15,570)",
    }


def test_a_machine_without_licence_servers_asks_none():
    class Closed(Desk):
        def ask(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            raise AssertionError("a server was asked")

    assert survey(Declarations(host=HostRules(cpus=1, mem_mib=64)), {}, desk=Closed()).inventory.unknown == set()


def test_this_machine_is_known_by_its_name_and_its_network_cards():
    here = query_here()
    assert here.is_meant_by(f"HOSTNAME={os.uname().nodename}")
    cards = [a.address for card in psutil.net_if_addrs().values() for a in card if a.family == psutil.AF_LINK]
    real = [address for address in cards if address != "00:00:00:00:00:00"]
    assert all(here.is_meant_by(address.replace(":", "").upper()) for address in real)
    assert not here.is_meant_by("000000000000")


def test_detect_explains_what_servers_told_and_shows_no_names(tool: MakeTool, tmp_path: Path):
    held = '  "aa" v1, vendor: d\n  floating license\n    zaphod hispc :0 (v1) (s/27000 1), start Mon 11/2 8:01\n'
    fake = tool(text=TEXT.replace("Users of bb", f"{held}    zaphod has more\nUsers of bb"))
    config = tmp_path / "slots.toml"
    command = json.dumps(list(fake.command))
    config.write_text(
        "[gpus]\ndetect = false\n"
        f'[license.aa]\ntype = "flexnet"\nserver = "1@a"\ncommand = {command}\nheadroom = 1\n'
        f'[license.zz]\ntype = "flexnet"\nserver = "1@a"\ncommand = {command}\n'
    )
    arguments = [sys.executable, "-m", "prefect_slots", "detect", "--explain", "--config", str(config)]
    env = {**os.environ, "COLUMNS": "200", "PREFECT_SLOTS_STATE_DIR": str(tmp_path / "state")}
    shown = subprocess.run(arguments, env=env, capture_output=True, text=True, check=True).stdout
    assert "the server has 9 seats, 4 in use; 1 kept free as headroom" in shown
    assert "the licence server 1@a tells of no 'zz'" in shown
    assert "1@a: a line of its output was not understood" in shown
    assert "zaphod" not in shown
    data = json.loads(subprocess.run([*arguments, "--json"], env=env, capture_output=True, check=True).stdout)
    (aa,) = [resource for resource in data["resources"] if resource["name"] == "license.aa"]
    assert (aa["cells"][0]["capacity"], aa["scope"], aa["origin"]) == (8, "fleet", "flexnet 1@a")
    assert data["unknown"] == ["license.zz"]


@pytest.mark.parametrize("module", [m.name for m in pkgutil.iter_modules(prefect_slots.detect.licenses.__path__)])
def test_every_room_is_on_the_map_and_opens_with_its_subject(module: str):
    assert f"\n{module} " in (prefect_slots.detect.licenses.__doc__ or "")
    opened = importlib.import_module(f"prefect_slots.detect.licenses.{module}")
    first = (opened.__doc__ or "").splitlines()[0]
    assert first.endswith(".") or ":" in first

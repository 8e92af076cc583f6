"""The holders of seats outside: hosts where the setting allows, users where it allows them, nothing of it stored."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.license_tools import Tool

from prefect_slots.detect.licenses.outside import Hold
from prefect_slots.detect.licenses.report import Checkout
from prefect_slots.usage.holders import SeatHolder, outside_holders

ME = getpass.getuser(), socket.gethostname()
TEXT = f"""\
Users of aa:  (Total of 9 licenses issued;  Total of 7 licenses in use)

  "aa" v1, vendor: acme
  floating license

    zaphod desk7.lab desk7:0 (v1) (lic1/27000 101), start Mon 2/10 8:10
    zaphod desk7.lab desk7:0 (v1) (lic1/27000 102), start Mon 2/10 8:10
    trillian desk8 desk8:0 (v1) (lic1/27000 103), start Mon 2/10 8:10, 2 licenses (linger: 3 / 600)
    Arthur P. Dent desk9 :0 (v1) (lic1/27000 104), start Mon 2/10 8:10
    {ME[0]} {ME[1]} :0 (v1) (lic1/27000 105), start Mon 2/10 8:10
    {ME[0]} {ME[1]} :0 (v1) (lic1/27000 106), start Mon 2/10 8:10
"""


class Machine:
    """Commands on a machine with one licence server."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        tool = Tool(folder / "tool", text=TEXT)
        (folder / "slots.toml").write_text(
            f'[settings]\nstate_dir = "{self.state}"\ncoordination = "local"\n[gpus]\ndetect = false\n'
            f'[license.aa]\ntype = "flexnet"\nserver = "1@a"\ncommand = {json.dumps(tool.command)}\n'
        )
        self._env = {**os.environ, "COLUMNS": "160", "PREFECT_SLOTS_CONFIG": str(folder / "slots.toml")}

    def __call__(self, *arguments: str, show: str = "") -> subprocess.CompletedProcess[str]:
        env = {**self._env, "PREFECT_SLOTS_SHOW_HOLDERS": show} if show else self._env
        argv = [sys.executable, "-m", "prefect_slots", *arguments]
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_holders_are_shown_as_far_as_the_setting_allows_and_never_stored(machine: Machine):
    refused = machine("detect", "--holders")
    assert refused.returncode == 1
    assert "show_holders" in refused.stderr
    assert "zaphod" not in machine("detect", "--explain").stdout
    assert machine("register").returncode == 0
    hosts = machine("detect", "--holders", show="hosts").stdout
    assert "desk7.lab" in hosts
    assert "desk8, lingering 10m00s" in hosts
    assert not any(name in hosts for name in ("zaphod", "trillian", "Dent", "Arthur", "P."))
    data = json.loads(machine("detect", "--holders", "--json", show="users").stdout)
    told = {(each["host"], each["user"]): (each["seats"], each["lingering"]) for each in data["holders"]}
    assert told == {
        ("desk7.lab", "zaphod"): (2, 0),
        ("desk8", "trillian"): (2, 600),
        ("", "Arthur P. Dent desk9 :0"): (1, 0),
        (ME[1], ME[0]): (2, 0),
    }
    assert "holders" not in json.loads(machine("detect", "--json", show="users").stdout)
    written = b"".join(file.read_bytes() for file in machine.state.rglob("*") if file.is_file())
    assert not any(name in written for name in (b"zaphod", b"trillian", b"desk7", b"Dent"))


def test_the_seats_of_our_tasks_are_not_outside():
    checkouts = [Checkout(user="mia", host="gpu-1.lab", count=count) for count in (1, 2)]
    hold = Hold(user="Mia", host="gpu-1", count=2, since=0)
    (left,) = outside_holders("license.aa", checkouts, [hold], names=False)
    assert left == SeatHolder(resource="license.aa", host="gpu-1.lab", user=None, seats=1)
    assert list(outside_holders("license.aa", checkouts, [hold, hold], names=True)) == []

"""Seats are looked at before they are granted: by a fresh process, for every way to ask, once for many at a time.

Case C01: registered while two seats were free; people take both; each request of a fresh process waits.
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.license_tools import Tool
from tests.support.polling import until
from tests.support.processes import ROOT, Puppet, SharedMachine, run_python

from prefect_slots.ledger.schema import FILE

CONFIG = """
[settings]
worker = "shared"
[gpus]
detect = false
[host]
cpus = 4
[license.solver]
type = "flexnet"
server = "{server}"
command = {command}
timeout = 3
"""
PEOPLE = """
    ann desk7 desk7:0 (v24.0) (lic1/27000 101), start Mon 2/10 8:10
    bob desk8 desk8:0 (v24.0) (lic1/27000 201), start Mon 2/10 8:12
"""


def users(seats: int) -> str:
    """What `lmutil lmstat` prints while people use that many of two seats."""
    plural = "" if seats == 1 else "s"
    head = f"Users of solver:  (Total of 2 licenses issued;  Total of {seats} license{plural} in use)\n"
    people = "\n".join(PEOPLE.strip("\n").splitlines()[:seats])
    return (
        f'{head}\n  "solver" v24.0, vendor: acme, expiry: 30-dec-2030\n  floating license\n\n{people}\n'
        if seats
        else head
    )


class Licensed:
    """A machine with two seats that a licence server counts."""

    def __init__(self, folder: Path) -> None:
        self.tool = Tool(folder / "tool", text=users(0))
        # Others may run the same tests at this moment, with a server of the same name.
        server = f"27000@{folder.name.replace('_', '-')}-{folder.parent.name[-4:]}"
        config = CONFIG.format(command=json.dumps(list(self.tool.command)), server=server)
        self.machine = SharedMachine(folder, config)
        self.server = server

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "prefect_slots", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.machine.env, capture_output=True, text=True, timeout=60, check=False
        )

    def run(self, timeout: str = "1") -> subprocess.CompletedProcess[str]:
        return self.command("run", "--license", "solver", "--timeout", timeout, "--", "true")

    def grows_old(self, seconds: int) -> None:
        """Let that time have passed since the last look."""
        with closing(sqlite3.connect(self.machine.state / FILE, timeout=20)) as connection, connection:
            connection.execute("UPDATE outside SET asked_at=asked_at-?, seen_at=seen_at-?", (seconds, seconds))

    @property
    def asked(self) -> int:
        return len(self.tool.noted("begins"))

    @property
    def outside(self) -> list[tuple[int | None]]:
        return self.machine.all("SELECT used FROM outside")


@pytest.fixture
def licensed(tmp_path: Path) -> Licensed:
    made = Licensed(tmp_path)
    assert made.command("register").returncode == 0
    return made


WITH = """
from prefect_slots import requires
from prefect_slots.errors import WaitTimeout
try:
    with requires(license="solver", timeout=1):
        print("holds")
except WaitTimeout as error:
    print(error)
"""
POOL = """
from prefect_slots import SlotPool
from prefect_slots.errors import WaitTimeout
def work(): return "holds"
with SlotPool() as pool:
    for future in [pool.submit(work, requires=dict(license="solver", timeout=1)) for _ in range(2)]:
        print(repr(future.exception()) if future.exception() else future.result())
"""


def test_c01_a_fresh_process_looks_before_its_first_seat(licensed: Licensed):
    with Puppet(licensed.machine) as holder:
        assert "granted" in holder.enter(license="solver")
    licensed.tool.play(text=users(2))
    licensed.grows_old(6)
    run = licensed.run()
    assert run.returncode == 124, run
    assert f"others use 2 of license.solver (flexnet {licensed.server}" in run.stderr
    licensed.grows_old(6)
    assert "not granted within 1 s" in run_python(licensed.machine, WITH)
    licensed.grows_old(6)
    assert run_python(licensed.machine, POOL).count("WaitTimeout") == 2


def test_c01_registration_keeps_the_use_it_saw(tmp_path: Path):
    licensed = Licensed(tmp_path)
    licensed.tool.play(text=users(2))
    assert licensed.command("register").returncode == 0
    assert licensed.outside == [(2,)]
    licensed.tool.play(do="print", text="lmgrd is not running\n", code=1)
    run = licensed.run()
    assert run.returncode == 124, run
    licensed.tool.play(text=users(1))
    assert licensed.command("register").returncode == 0
    assert licensed.outside == [(1,)]
    licensed.tool.play(text=users(2))
    assert licensed.command("register", "--dry-run").returncode == 0
    assert licensed.outside == [(1,)]


def test_a_first_use_that_registers_keeps_the_use_it_saw(tmp_path: Path):
    licensed = Licensed(tmp_path)
    licensed.tool.play(text=users(2))
    run = licensed.run()
    assert run.returncode == 124, run
    assert licensed.asked == 1


def test_a_server_that_does_not_answer_leaves_the_last_number_with_its_age_where_it_decides(licensed: Licensed):
    licensed.tool.play(text=users(1))
    assert licensed.command("register").returncode == 0
    licensed.tool.play(do="print", text="lmgrd is not running\n", code=1)
    licensed.grows_old(125)
    run = licensed.run()
    assert run.returncode == 0, run
    assert re.search(r"license.solver: .* what it told 2m..s ago stands, 1 in use by others", run.stderr)
    with Puppet(licensed.machine) as holder:
        assert "granted" in holder.enter(license="solver")
        waits = licensed.run()
        assert waits.returncode == 124, waits
        assert re.search(
            rf"others use 1 of license.solver \(flexnet {licensed.server}, 2m..s ago; no answer", waits.stderr
        )
    (cell,) = (each for each in json.loads(licensed.command("status", "--json").stdout)["cells"] if each["outside"])
    assert (cell["origin"], cell["outside"]["used"]) == (f"flexnet {licensed.server}", 1)
    shown = licensed.command("status").stdout
    assert "1 seat, 2m" in shown


def test_a_server_that_hangs_holds_up_a_first_request_no_longer_than_its_time_limit(licensed: Licensed):
    licensed.grows_old(125)
    licensed.tool.play(do="hang")
    run = licensed.run("20")
    assert run.returncode == 0, run
    assert "did not answer" in run.stderr


def test_many_fresh_processes_ask_the_server_once(licensed: Licensed):
    licensed.grows_old(6)
    licensed.tool.play(do="wait", text=users(0))
    before = licensed.asked
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(licensed.run, "20") for _ in range(3)]
        until(lambda: licensed.machine.count("owner") == 3, what="three that ask")
        licensed.tool.gate.touch()
        assert [run.result(60).returncode for run in runs] == [0, 0, 0]
    assert licensed.asked == before + 1


DRAWS = """
import os, sqlite3, subprocess, sys
from prefect_slots import current_grant, requires
inner = "from prefect_slots import requires; requires(license='solver').__enter__()"
with requires(license="solver"):
    with sqlite3.connect(os.environ["PREFECT_SLOTS_STATE_DIR"] + "/ledger.sqlite3") as ledger:
        ledger.execute("UPDATE outside SET asked_at=0")
    print(subprocess.run([sys.executable, "-c", inner], env=current_grant().env, timeout=50).returncode)
"""


def test_a_draw_on_a_seat_that_is_held_asks_no_server(licensed: Licensed):
    before = licensed.asked
    assert run_python(licensed.machine, DRAWS) == "0\n"
    assert licensed.asked == before + 1, "the outer request alone"

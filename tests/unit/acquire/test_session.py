"""A process's part in a ledger: it reaps the dead, bears with a ledger that is locked or gone, and leaves no files."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from pathlib import Path

import pytest
from tests.support.polling import until
from tests.support.processes import Puppet, SharedMachine, member, run_python

from prefect_slots import requires
from prefect_slots.acquire.engine import close_engine, engine
from prefect_slots.acquire.session import Session
from prefect_slots.errors import LedgerUnreadable
from prefect_slots.ledger import schema
from prefect_slots.ledger.wakeup import WakeSocket


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked ledger is given up on soon."""
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)


class Locked:
    """Somebody keeps the ledger locked, as a process does that is stopped in a transaction."""

    def __init__(self, machine: SharedMachine) -> None:
        self.path = machine.state / schema.FILE

    def __enter__(self) -> None:
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        self.connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *exc: object) -> None:
        self.connection.close()


def work() -> str:
    with requires(scanner=1) as grant:
        return grant.id


@pytest.mark.usefixtures("impatient")
def test_a_waiter_that_met_a_locked_ledger_still_reaps_the_dead(
    machine: SharedMachine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "prefect_slots")
    with Puppet(machine) as holder, ThreadPoolExecutor(1) as pool:
        holder.enter(scanner=1)
        waiting = pool.submit(work)
        machine.waiting(1)
        with Locked(machine):
            holder.kill()
            until(lambda: "trying again" in caplog.text, what="an attempt that failed")
        assert waiting.result(20)
    machine.until_empty(but=("owner",))


@pytest.mark.usefixtures("impatient")
def test_a_release_that_met_a_locked_ledger_is_done_later(
    machine: SharedMachine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "prefect_slots")
    grant = copy_context().run(requires(scanner=1).__enter__)
    kept = requires(license="matlab")
    with kept:
        locked = Locked(machine)
        locked.__enter__()
    assert "could not be given back yet" in caplog.text
    locked.__exit__()
    until(lambda: machine.count("held") == 1, what="the seat given back")
    assert not grant.ended


def test_the_living_reap_the_dead_and_remove_their_files(machine: SharedMachine) -> None:
    with Puppet(machine) as holder, Puppet(machine) as waiter:
        holder.enter(scanner=1)
        waiter.ask(scanner=1)
        machine.waiting(1)
        holder.kill()
        waiter.kill()
        assert machine.count("owner") == 2
        work()
        assert machine.traces().keys() == {"owner"}
        assert machine.count("owner") == 1
        assert len(list((machine.state / "owners").iterdir())) == 1
        assert len(list((machine.state / "wake").iterdir())) <= 1
    close_engine()
    assert list((machine.state / "owners").iterdir()) == []
    assert list((machine.state / "wake").iterdir()) == []


def test_a_waiter_whose_ledger_is_deleted_is_told(machine: SharedMachine) -> None:
    with Puppet(machine) as holder, ThreadPoolExecutor(1) as pool:
        holder.enter(scanner=1)
        waiting = pool.submit(work)
        machine.waiting(1)
        shutil.rmtree(machine.state)
        with pytest.raises(LedgerUnreadable, match="deleted or replaced"):
            waiting.result(20)
        holder.kill()


DELETED = """
import os, shutil
from prefect_slots import requires
with requires(scanner=1):
    shutil.rmtree(os.environ["PREFECT_SLOTS_STATE_DIR"])
    print("its result")
"""


def test_a_program_whose_ledger_is_deleted_ends_as_it_would(machine: SharedMachine) -> None:
    code = f"import logging; logging.disable()\n{DELETED}"
    assert run_python(machine, code) == "its result\n"


def test_what_could_not_be_given_back_at_the_end_is_free_at_once(
    machine: SharedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)
    kept = copy_context().run(requires(scanner=1).__enter__)
    with Locked(machine):
        close_engine()
    assert not kept.ended
    assert machine.count("held") == 1
    # This process lives on, and has no part in the ledger any more.
    with Puppet(machine) as other:
        assert other.enter(scanner=1, timeout=10)["granted"] == {"scanner": 1}


def test_a_process_that_cannot_take_part_leaves_no_file(
    machine: SharedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with member(machine.state):
        before = sorted(path.name for path in machine.state.rglob("*"))
        monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)
        with Locked(machine), pytest.raises(LedgerUnreadable, match="locked"):
            work()
        assert sorted(path.name for path in machine.state.rglob("*")) == before
    sockets: list[str] = []

    def unbound(self: WakeSocket, folder: Path, owner: str) -> None:
        sockets.append(owner)
        raise OSError("no socket")

    monkeypatch.setattr(WakeSocket, "__init__", unbound)
    with pytest.raises(OSError, match="no socket"):
        work()
    assert sockets
    assert list((machine.state / "owners").iterdir()) == []


def test_first_use_registers_what_the_configuration_says(machine: SharedMachine) -> None:
    work()
    assert machine.all("SELECT value FROM meta WHERE key='machine'") == [("shared",)]
    cells = machine.all("SELECT resource, number, key, capacity FROM cell ORDER BY 1, 2")
    assert ("gpu_mem", 1, "GPU-test-1", 24576) in cells
    assert ("license.matlab", 0, "0", 2) in cells
    assert ("cpus", 0, "0", 8) in cells


def test_a_later_process_finds_it_registered(machine: SharedMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    with Puppet(machine) as other:
        other.enter(scanner=1)
        Path(machine.settings["PREFECT_SLOTS_CONFIG"]).write_text("[resources.other]\ncapacity = 1\n")
        with requires(license="matlab") as grant:
            assert grant.amounts == {"license.matlab": 1}
        assert machine.count("owner") == 2


def test_a_process_is_one_owner_however_many_threads_ask(machine: SharedMachine) -> None:
    begin = threading.Barrier(4)

    def together() -> None:
        begin.wait(30)
        work()

    with ThreadPoolExecutor(4) as pool:
        for waiting in [pool.submit(together) for _ in range(4)]:
            waiting.result(30)
    assert machine.count("owner") == 1
    assert len([part for part in engine().parts.values() if isinstance(part, Session)]) == 1
    with closing(sqlite3.connect(machine.state / schema.FILE)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM history").fetchone() == (4,)


SEEDED = """
import random
from prefect_slots import requires
random.seed(7)
before = random.getstate()
with requires(scanner=1):
    print(random.getstate() == before)
"""


def test_a_program_that_seeds_random_gets_its_own_numbers_while_it_waits(machine: SharedMachine) -> None:
    with Puppet(machine) as holder, ThreadPoolExecutor(1) as pool:
        holder.enter(scanner=1)
        waiting = pool.submit(run_python, machine, SEEDED)
        machine.waiting(1)
        holder.kill()
        assert waiting.result(30) == "True\n"

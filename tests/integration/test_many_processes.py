"""Many processes on one ledger: one at a time, in order, overtaken so often and no more, each woken by name."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.polling import until
from tests.support.processes import ROOT, Puppet, SharedMachine

from prefect_slots import requires
from prefect_slots.acquire import session, tickets
from prefect_slots.acquire.engine import close_engine

CONTEND = """
import os, sys
from prefect_slots import requires
busy, turns = sys.argv[1], 0
sys.stdin.readline()
for _ in range(100):
    with requires(scanner=1, timeout=60) as grant:
        # A second holder would find the file there, whatever the ledger believes.
        os.close(os.open(busy, os.O_CREAT | os.O_EXCL))
        turns += grant.waited > 0
        os.unlink(busy)
print(turns)
"""


@pytest.fixture
def machine(tmp_path: Path) -> SharedMachine:
    return SharedMachine(tmp_path)


def in_turn(machine: SharedMachine, puppets: list[Puppet]) -> None:
    """Let all ask for the scanner, one after the other."""
    for number, puppet in enumerate(puppets, 1):
        puppet.ask(scanner=1)
        until(lambda wanted=number: machine.count("ticket") + machine.count("held") == wanted, what="the next request")


def test_eight_processes_that_contend_hold_one_at_a_time(machine: SharedMachine) -> None:
    command = [sys.executable, "-c", CONTEND, str(machine.state.parent / "busy")]
    children = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=machine.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    outputs = [child.communicate("go\n", timeout=100) for child in children]
    assert [child.returncode for child in children] == [0] * 8, [errors for _, errors in outputs]
    assert sum(int(out) for out, _ in outputs) > 0, "somebody had to wait, or nothing was tried"
    assert machine.traces() == {}
    spans = machine.all("SELECT granted_at, ended_at FROM history WHERE resource='scanner' ORDER BY granted_at")
    assert len(spans) == 8 * 100


def test_eight_processes_are_served_in_order_and_only_the_granted_is_woken(machine: SharedMachine) -> None:
    with ExitStack() as stack:
        puppets = [stack.enter_context(Puppet(machine)) for _ in range(8)]
        in_turn(machine, puppets)
        times: list[float] = []
        for place, puppet in enumerate(puppets):
            times.append(puppet.reply()["at"])
            assert all(later.silent for later in puppets[place + 1 :]), "somebody else was granted too"
            puppet.leave()
        assert times == sorted(times)
    assert machine.traces() == {}


def test_killed_waiters_are_passed_over_and_a_killed_holder_makes_room(machine: SharedMachine) -> None:
    with ExitStack() as stack:
        puppets = [stack.enter_context(Puppet(machine)) for _ in range(6)]
        in_turn(machine, puppets)
        puppets[0].reply()
        for waiter in puppets[1:3]:
            waiter.kill()
        puppets[0].leave()
        assert puppets[3].reply()["granted"] == {"scanner": 1}
        puppets[3].kill()
        assert puppets[4].reply()["granted"] == {"scanner": 1}
        assert puppets[5].silent
        puppets[4].leave()
        puppets[5].reply()
        puppets[5].leave()
    machine.reap()
    assert machine.traces() == {}


@pytest.mark.parametrize("allowed", [0, 3])
def test_a_large_request_is_overtaken_so_often_and_no_more(tmp_path: Path, allowed: int) -> None:
    machine = SharedMachine(tmp_path, max_overtakes=str(allowed))
    with ExitStack() as stack:
        holder, large, small, last = (stack.enter_context(Puppet(machine)) for _ in range(4))
        holder.enter(license="matlab")
        large.ask(license={"matlab": 2})
        machine.waiting(1)
        for _ in range(allowed):
            assert small.enter(license="matlab", timeout=20)["granted"] == {"license.matlab": 1}
            small.leave()
        small.ask(license="matlab")
        machine.waiting(2)
        assert last.enter(license="matlab", timeout=0.3)["error"] == "WaitTimeout"
        assert last.enter(scanner=1)["granted"] == {"scanner": 1}, "who wants something else is not held up"
        holder.leave()
        assert large.reply()["granted"] == {"license.matlab": 2}
        assert small.silent
        large.leave()
        small.reply()
        small.leave()
        last.leave()
    assert machine.traces() == {}


@pytest.fixture(params=["unix", "udp"])
def awoken(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedMachine]:
    """This process takes part, with nothing but a datagram to wake it in time."""
    for module in (tickets, session):
        monkeypatch.setattr(module, "POLL_SECONDS", 3600.0)
    with tempfile.TemporaryDirectory() as short:
        place = Path(short) if request.param == "unix" else tmp_path / ("x" * 100)
        place.mkdir(exist_ok=True)
        machine = SharedMachine(place)
        for name, value in machine.settings.items():
            monkeypatch.setenv(name, value)
        yield machine
        close_engine()


def work() -> dict[str, int]:
    with requires(scanner=1, timeout=60) as grant:
        return grant.amounts


def test_a_release_in_another_process_wakes_without_polling(awoken: SharedMachine) -> None:
    with Puppet(awoken) as other, ThreadPoolExecutor(3) as pool:
        other.enter(scanner=1)
        waiting = [pool.submit(work) for _ in range(3)]
        awoken.waiting(3)
        (address,) = awoken.all("SELECT substr(wake, 1, 3) FROM owner WHERE pid=?", os.getpid())
        assert address[0] in ("uni", "udp")
        other.leave()
        assert [each.result(20) for each in waiting] == [{"scanner": 1}] * 3


def test_a_dead_holder_found_by_another_s_request_wakes_without_polling(awoken: SharedMachine) -> None:
    with Puppet(awoken) as holder, Puppet(awoken) as passer_by, ThreadPoolExecutor(1) as pool:
        holder.enter(scanner=1)
        waiting = pool.submit(work)
        awoken.waiting(1)
        holder.kill()
        passer_by.enter(license="matlab")
        assert waiting.result(20) == {"scanner": 1}


def test_a_draw_whose_grant_has_ended_is_told_without_polling(awoken: SharedMachine) -> None:
    with Puppet(awoken) as holder:
        holder.enter(scanner=1)
        (grant,) = awoken.all("SELECT id FROM held")
        (ledger,) = awoken.all("SELECT value FROM meta WHERE key='ledger_id'")
        token = f"{ledger[0]}:{grant[0]}"
        with Puppet(awoken, PREFECT_SLOTS_GRANT=token) as inner, Puppet(awoken, PREFECT_SLOTS_GRANT=token) as late:
            assert inner.enter(scanner=1)["granted"] == {"scanner": 1}
            late.ask(scanner=1)
            awoken.waiting(1)
            holder.leave()
            assert late.reply()["error"] == "GrantClosed"
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(work)
                awoken.waiting(1)
                inner.leave()
                assert waiting.result(20) == {"scanner": 1}

"""Hard times for the machine itself: no room, no permission, a jumping clock, stopped processes, a reboot."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest
from tests.support.boxes import Box
from tests.support.bystander import registered, take_everything, watch
from tests.support.forked import Forked
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer
from tests.support.processes import ROOT, Puppet, SharedMachine, run_python

from prefect_slots.system import clock


@pytest.fixture
def machine(tmp_path: Path) -> SharedMachine:
    return SharedMachine(tmp_path)


class Program:
    """A program that goes on a step whenever it is told to, and says a word after each."""

    def __init__(self, machine: SharedMachine, code: str) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", STEPS + code]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=machine.env, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def says(self) -> str:
        """Return its next word."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def go_on(self) -> None:
        """Let it take the next step."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def ended(self) -> tuple[int, str]:
        """Let it come to its end; return the exit code and what it complained of."""
        _, errors = self._process.communicate("\n" * 9, timeout=40)
        return self._process.returncode, errors


STEPS = """
import sys
from prefect_slots import requires
from prefect_slots.errors import SlotsError

def say(*words):
    print(*words, flush=True)
    sys.stdin.readline()

def get(**needs):
    try:
        return requires(**needs).__enter__()
    except SlotsError as error:
        return f"{type(error).__name__} {error}"

scanner = requires(scanner=1)
"""

# A file that may not grow is what a full disk is to whoever writes.
NO_ROOM = """
import resource
scanner.__enter__()
say("holds")
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
say(get(license="matlab"))
scanner.__exit__(None, None, None)
say("left")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
say("there is room again")
"""


def test_without_room_nothing_is_granted_and_what_is_left_is_given_back_once_there_is(machine: SharedMachine) -> None:
    with Program(machine, NO_ROOM) as program, Puppet(machine) as other:
        assert program.says() == "holds"
        other.ask(scanner=1)
        machine.waiting(1)
        program.go_on()
        assert program.says().startswith("LedgerUnreadable")
        program.go_on()
        assert program.says() == "left"
        assert other.silent
        assert machine.count("held") == 1
        program.go_on()
        assert other.reply()["granted"] == {"scanner": 1}
        other.leave()
        code, errors = program.ended()
        assert code == 0, errors
    assert machine.traces() == {}


def test_who_dies_without_room_leaves_nothing_either(machine: SharedMachine) -> None:
    with Program(machine, NO_ROOM.replace("scanner.__exit__", "sys.exit(); scanner.__exit__")) as program:
        assert program.says() == "holds"
        program.go_on()
        assert program.says().startswith("LedgerUnreadable")
        code, errors = program.ended()
        assert code == 0, errors
        assert "the next process gives back the grants of this one" in errors
    with Puppet(machine) as other:
        assert other.enter(scanner=1, timeout=10)["granted"] == {"scanner": 1}
        other.leave()
    assert machine.traces() == {}


# Root may write anywhere; without its capabilities it is like anybody.
UNPRIVILEGED = """
import ctypes
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0
"""


def test_a_folder_made_read_only_is_told_to_newcomers_and_stops_nobody_who_is_there(machine: SharedMachine) -> None:
    there = UNPRIVILEGED + "scanner.__enter__()\nsay('holds')\nscanner.__exit__(None, None, None)\nsay('left')\n"
    newcomer = UNPRIVILEGED + "say(get(scanner=1))"
    folders = [machine.state, machine.state / "owners", machine.state / "wake"]
    with Program(machine, there) as holder, ExitStack() as stack:
        assert holder.says() == "holds"
        waiter = stack.enter_context(Program(machine, there))
        machine.waiting(1)
        for folder in folders:
            folder.chmod(0o500)
        with Program(machine, newcomer) as late:
            assert late.says().startswith("StateFolderUnsuitable")
        holder.go_on()
        assert holder.says() == "left"
        assert waiter.says() == "holds"
        for program in (holder, waiter):
            code, errors = program.ended()
            assert (code, "Traceback" in errors) == (0, False), errors
        for folder in folders:
            folder.chmod(0o700)
    with Puppet(machine) as other:
        assert other.enter(scanner=1)["granted"] == {"scanner": 1}
        other.leave()
    assert machine.traces() == {}


# The wall clock is an input like any other: this one jumps when it is told to.
JUMPING = """
import time
real, ahead = time.time, 0
time.time = lambda: real() + ahead

def jump(seconds):
    global ahead
    ahead += seconds
"""


def test_a_wall_clock_that_jumps_neither_grants_nor_takes_anything(machine: SharedMachine) -> None:
    steps = """
scanner.__enter__()
say("holds")
jump(-200_000)
scanner.__exit__(None, None, None)
jump(300_000)
with requires(license="matlab", timeout=2) as grant:
    say(grant.waited < 2)
scanner.__enter__()
jump(-400_000)
say("holds again")
"""
    with Program(machine, JUMPING + steps) as program, Puppet(machine) as other:
        assert program.says() == "holds"
        other.ask(scanner=1, timeout=60)
        machine.waiting(1)
        program.go_on()
        assert other.reply()["granted"] == {"scanner": 1}
        assert program.says() == "True"
        program.go_on()
        until(lambda: machine.count("ticket") == 1, what="its second request")
        other.leave()
        assert program.says() == "holds again"
        assert other.enter(scanner=1, timeout=1)["error"] == "WaitTimeout"
        shown = subprocess.run(
            [sys.executable, "-m", "prefect_slots", "status", "--json"],
            env=machine.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert shown.returncode == 0, shown.stderr
        code, errors = program.ended()
        assert code == 0, errors
    assert machine.traces() == {}


def test_a_stopped_holder_keeps_what_it_holds(machine: SharedMachine) -> None:
    with Puppet(machine) as holder, Puppet(machine) as waiter, Puppet(machine) as passer_by:
        holder.enter(scanner=1)
        waiter.ask(scanner=1)
        machine.waiting(1)
        holder.process.send_signal(signal.SIGSTOP)
        # Longer than a waiter's polls, each of which looks for the dead.
        assert passer_by.enter(scanner=1, timeout=2)["error"] == "WaitTimeout"
        assert waiter.silent
        assert machine.count("held") == 1
        assert machine.count("owner") == 3
        holder.process.send_signal(signal.SIGCONT)
        holder.leave()
        assert waiter.reply()["granted"] == {"scanner": 1}
        waiter.leave()
    assert machine.traces() == {}


def test_a_stopped_waiter_is_granted_its_turn_and_another_s_release_is_not_lost(machine: SharedMachine) -> None:
    with Puppet(machine) as holder, Puppet(machine) as waiter:
        holder.enter(scanner=1)
        waiter.ask(scanner=1)
        machine.waiting(1)
        waiter.process.send_signal(signal.SIGSTOP)
        holder.leave()
        assert machine.count("held") == 1, "its own turn, and it lives"
        waiter.process.send_signal(signal.SIGCONT)
        assert waiter.reply()["granted"] == {"scanner": 1}
        waiter.leave()
    assert machine.traces() == {}


DRAWS = """
import multiprocessing, os, sys
from prefect_slots import requires

def draw(token, answers):
    os.environ["PREFECT_SLOTS_GRANT"] = token
    with requires(license={"ansys": 3}, timeout=20) as grant:
        answers.put(grant.amounts["license.ansys"])

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    answers = context.Queue()
    with requires(license={"ansys": 3}) as grant:
        child = context.Process(target=draw, args=(grant.env["PREFECT_SLOTS_GRANT"], answers))
        child.start()
        print(answers.get(timeout=60), flush=True)
        child.join(60)
    print(child.exitcode)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_multiprocessing_child_that_is_given_the_grant_draws_on_it(machine: SharedMachine, method: str) -> None:
    file = machine.state.parent / "program.py"
    file.write_text(DRAWS)
    out = run_python(
        machine, f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, {str(file)!r}, {method!r}]))"
    )
    assert out.split() == ["3", "0"]
    machine.reap()
    assert machine.traces() == {}


# Forked from one program, so that what is measured is not two hundred imports.
CROWD = """
import os, sys
from prefect_slots import requires
from prefect_slots.acquire.engine import close_engine
from tests.support.stress import recorded

with requires(scanner=1):
    pass
close_engine()
children, crowd = [], int(sys.argv[1])
record = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
ready, gate = os.pipe()
for _ in range(crowd):
    child = os.fork()
    if child == 0:
        os.close(gate)
        os.read(ready, 1)
        with requires(license="ansys", timeout=100) as grant, recorded(record, grant):
            pass
        sys.exit(0)
    children.append(child)
os.close(ready)
os.close(gate)
assert "prefect" not in sys.modules
print([code for child in children if (code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))])
"""


@pytest.mark.slow
def test_two_hundred_processes_at_once_are_all_served_and_never_overlap(machine: SharedMachine) -> None:
    record = machine.state.parent / "record"
    program = f"import sys; sys.argv = ['', '200', {str(record)!r}]\n{CROWD}"
    assert run_python(machine, program, seconds=110).strip() == "[]"
    events = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(events) == 400
    held = most = 0
    for sign, _, _ in sorted(events, key=lambda event: event[1]):
        held += 1 if sign == "+" else -1
        most = max(most, held)
    assert held == 0
    assert most <= 3
    assert machine.traces() == {}


def test_after_a_reboot_nobody_of_before_holds_or_waits(machine: SharedMachine) -> None:
    with ExitStack() as stack:
        puppets = [stack.enter_context(Puppet(machine)) for _ in range(3)]
        puppets[0].enter(scanner=1, gpu_mem=24)
        puppets[1].enter(gpu_mem=24, license={"matlab": 2})
        puppets[2].ask(scanner=1)
        machine.waiting(1)
        for puppet in puppets:
            puppet.kill()
    for lock in (machine.state / "owners").iterdir():
        lock.unlink()
    # Process ids begin anew, and this one is somebody else's now.
    me = psutil.Process()
    with closing(sqlite3.connect(machine.state / "ledger.sqlite3")) as connection, connection:
        connection.execute("UPDATE owner SET boot='before', pid=?, started=?", (me.pid, me.create_time()))
    with Puppet(machine) as first:
        assert first.enter(scanner=1, gpus=2, license={"matlab": 2}, timeout=10)["granted"]
        first.leave()
    assert machine.traces() == {}


def on_a_server(test: Callable[[Box], None]) -> Callable[[Box], None]:
    # Connections that Prefect's own flow engine left open in earlier tests are closed by the garbage collector here.
    quiet = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    return pytest.mark.server(pytest.mark.xdist_group("faults")(quiet(test)))


@pytest.fixture
def box(prefect_server: PrefectServer, tmp_path: Path) -> Iterator[Box]:
    """A machine in which this process takes part."""
    with registered(Box(tmp_path, prefect_server.url)) as made:
        yield made


@on_a_server
def test_who_looks_after_the_machine_is_replaced_when_stopped_and_keeps_its_slots(box: Box) -> None:
    holder = Forked(box, {"scanner": 1})
    assert holder.holds()
    until(lambda: box.rows("role") == 1, what="the first to look after the machine")
    assert holder.process.pid is not None
    os.kill(holder.process.pid, signal.SIGSTOP)
    watch(box)
    mine = f"role WHERE owner=(SELECT id FROM owner WHERE pid={os.getpid()})"
    until(lambda: box.rows(mine) == 1, what="the next to look after it")
    assert box.limits() == {f"scanner:{box.name}": 1}
    os.kill(holder.process.pid, signal.SIGCONT)
    holder.leave()
    assert holder.ended() == 0
    take_everything(box)
    box.assert_nothing_is_left()


@on_a_server
def test_after_a_reboot_the_server_s_slots_are_given_back(box: Box) -> None:
    holder = Forked(box, {"gpu_mem": 24, "gpus": 2, "license": {box.matlab: 2}})
    assert holder.holds()
    assert holder.kill() == -signal.SIGKILL
    rebooted(box)
    watch(box)
    take_everything(box)
    box.assert_nothing_is_left()


@on_a_server
def test_after_a_reboot_another_looks_after_the_machine(box: Box) -> None:
    holder = Forked(box, {"cpus": 1})
    assert holder.holds()
    until(lambda: box.rows("role") == 1, what="the first to look after the machine")
    assert holder.kill() == -signal.SIGKILL
    rebooted(box)
    watch(box)
    mine = f"role WHERE owner=(SELECT id FROM owner WHERE pid={os.getpid()})"
    until(lambda: box.rows(mine) == 1, what="the next to look after it")


def rebooted(box: Box) -> None:
    """Make the ledger look as if the machine had run for days, gone down in the middle, and come up again."""
    days = 5 * 86400
    with closing(sqlite3.connect(box.state / "ledger.sqlite3")) as connection, connection:
        connection.execute("UPDATE owner SET boot='before'")
        connection.execute("UPDATE meta SET value='before' WHERE key='boot'")
        connection.execute("UPDATE lease SET sent_at=sent_at+?, deadline=deadline+?", (days, days))
        connection.execute("UPDATE role SET beat=beat+?", (days,))
        connection.execute("INSERT INTO rest VALUES (?, ?)", (f"license:{box.matlab}", clock.boot_clock() + days))

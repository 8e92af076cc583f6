"""Forked and started children: they have no part in their parent's grant, and acquire by themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.support.processes import SharedMachine, member, run_python

FORK = """
import os, sys, time
from prefect_slots import current_grant, requires
seat = requires(license={"ansys": 2})
with seat as grant:
    child = os.fork()
    if child == 0:
        assert current_grant() is None
        assert os.environ.get("PREFECT_SLOTS_GRANT") is None
        with requires(license={"ansys": 1}, timeout=20) as own:
            assert own.parent is None
            try:
                with requires(license={"ansys": 3}, timeout=0.2):
                    raise AssertionError
            except Exception as error:
                print("child", own.amounts, type(error).__name__, flush=True)
        LEAVE
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with requires(license={"ansys": 1}) as drawn:
        assert drawn.parent is grant
    print("parent", not grant.ended, flush=True)
print("free", current_grant(), flush=True)
"""


@pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit(0)"])
def test_a_forked_child_acquires_by_itself_and_its_end_is_not_its_parent_s(machine: SharedMachine, leave: str) -> None:
    out = run_python(machine, FORK.replace("LEAVE", leave))
    assert out.splitlines() == ["child {'license.ansys': 1} OutOfOrder", "parent True", "free None"]
    machine.reap()
    assert machine.traces() == {}


FALLS_OUT = """
import os, sqlite3
from prefect_slots import requires

needs = requires(gpu_mem=8)

def held():
    rows = sqlite3.connect(os.environ["PREFECT_SLOTS_STATE_DIR"] + "/ledger.sqlite3")
    return rows.execute("SELECT COUNT(*) FROM held").fetchone()[0]

def inside():
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print("held by", held())
    return child

def steps():
    yield inside()

def block():
    with needs:
        return inside()

if FORM() == 0:
    os._exit(0)
print("held by", held())
"""


@pytest.mark.parametrize("form", ["block", "needs(inside)", "lambda: next(needs(steps)())"])
def test_a_child_that_falls_out_of_its_parent_s_block_leaves_the_grant_alone(machine: SharedMachine, form: str) -> None:
    assert run_python(machine, FALLS_OUT.replace("FORM", f"({form})")).splitlines() == ["held by 1", "held by 0"]


MULTIPROCESSING = """
import multiprocessing, os, sys
from prefect_slots import current_grant, requires

def work(seats, answers):
    assert current_grant() is None, current_grant()
    with requires(license={"ansys": seats}, timeout=20) as grant:
        answers.put((grant.amounts["license.ansys"], grant.parent is None))

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    answers = context.Queue()
    with requires(license="ansys") as grant:
        children = [context.Process(target=work, args=(seats, answers)) for seats in (1, 2)]
        for child in children:
            child.start()
        print(sorted(answers.get(timeout=60) for _ in children))
        for child in children:
            child.join(60)
        print([child.exitcode for child in children])
        with requires(license="ansys") as drawn:
            print(drawn.parent is grant, not grant.ended)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children_acquire_by_themselves(machine: SharedMachine, method: str) -> None:
    file = machine.state.parent / "program.py"
    file.write_text(MULTIPROCESSING)
    program = f"import runpy, sys; sys.argv = ['x', '{method}']; runpy.run_path({str(file)!r}, run_name='__main__')"
    if method != "fork":  # these import the main module by its path
        program = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, {str(file)!r}, '{method}']))"
    out = run_python(machine, program)
    assert out.splitlines() == ["[(1, True), (2, True)]", "[0, 0]", "True True"]
    machine.reap()
    assert machine.traces() == {}


FORK_WHILE_BUSY = """
import os, threading
from prefect_slots import requires

stop = threading.Event()
def busy():
    while not stop.is_set():
        with requires(license="ansys"):
            pass
with requires(license="ansys"):
    pass  # what is imported on first use must be there: Python cannot fork while another thread imports
threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads: thread.start()
codes = []
def fork():
    while True:
        try:
            return os.fork()
        except RuntimeError as error:  # on Python 3.12 and newer, filelock refuses a fork while another thread forks
            if "filelock" not in str(error): raise
def forking():
    for _ in range(10):
        child = fork()
        if child == 0:
            try:
                with requires(license="matlab", timeout=20):
                    pass
                os._exit(0)
            finally:
                os._exit(7)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
forkers = [threading.Thread(target=forking) for _ in range(2)]
for thread in forkers: thread.start()
for thread in forkers: thread.join()
stop.set()
for thread in threads: thread.join()
print(set(codes))
"""


def test_forking_while_other_threads_acquire_harms_neither(machine: SharedMachine) -> None:
    assert run_python(machine, FORK_WHILE_BUSY, seconds=100).strip() == "{0}"
    machine.reap()
    assert machine.traces() == {}
    assert machine.all("PRAGMA integrity_check") == [("ok",)]


OUTLIVES = """
import os, sys
from prefect_slots import requires
from prefect_slots.acquire.engine import close_engine

with requires(license="ansys"):
    pass
child = os.fork()
if child == 0:
    with requires(license="ansys"):
        print("held", flush=True)
        sys.stdin.readline()
    with requires(license={"ansys": 3}):
        print("held again", flush=True)
        sys.stdin.readline()
    os._exit(0)
close_engine()
os.waitpid(child, 0)
"""


def test_what_a_forked_child_holds_is_seen_after_everybody_else_has_closed_the_ledger(machine: SharedMachine) -> None:
    # SQLite takes a connection inherited over a fork for one of its own, and its file locks for held.
    parent = subprocess.Popen(
        [sys.executable, "-c", OUTLIVES], env=machine.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "held\n"
    for _ in range(3):
        with member(machine.state) as (ledger, _owner):
            ledger.transact(lambda tx: tx.set_meta("mark", "set"))
    assert parent.stdin is not None
    parent.stdin.write("go on\n")
    parent.stdin.flush()
    assert parent.stdout.readline() == "held again\n"
    assert machine.all("SELECT amount FROM holding") == [(3,)]
    parent.communicate("go on\n", timeout=60)
    machine.reap()
    assert machine.traces() == {}

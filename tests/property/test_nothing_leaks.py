"""Law 7: nothing leaks. However a task or its process ends, at whatever point, the ledger is empty afterwards."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.polling import until
from tests.support.processes import ROOT, Puppet, SharedMachine, run_python

START = """
import asyncio, os, sys, threading, time, gc
from prefect_slots import requires
needs = requires(license={"matlab": 2})
free = requires(gpu_mem=8)

def say(word):
    print(word, flush=True)
    sys.stdin.readline()

def rows(table):
    import sqlite3
    file = sqlite3.connect(os.environ["PREFECT_SLOTS_STATE_DIR"] + "/ledger.sqlite3")
    try:
        return file.execute(f"SELECT COUNT(*) FROM {table} WHERE owner IN (SELECT id FROM owner WHERE pid=?)",
                            (os.getpid(),)).fetchone()[0]
    finally:
        file.close()

def steps():
    with free:
        yield 1

@free
def generator():
    with requires(license="ansys"):
        yield 1

@free
async def async_generator():
    yield 1
"""

# Each ends by itself; `needs` is held by another process all the while, `free` is to be had.
PATHS = {
    "returns": "free(lambda: None)()",
    "raises": "free(lambda: 1 / 0)()",
    "exits in a block": "with free: sys.exit(0)",
    "exits hard in a block": "with free: os._exit(0)",
    "raises in a nested block": """
with free, requires(gpu_mem=4), requires(license="ansys"):
    1 / 0
""",
    "times out": "requires(license='matlab', timeout=0.2).__enter__()",
    "times out inside a grant": """
with free:
    requires(license="matlab", timeout=0.2).__enter__()
""",
    "is refused": "with requires(scanner=1): requires(gpu_mem=1).__enter__()",
    "asks for what cannot be": "with free: requires(gpu_mem=4000).__enter__()",
    "drops a generator": "g = steps(); next(g); del g; w = generator(); next(w); del w; gc.collect()",
    "keeps a generator": "g = steps(); next(g); w = generator(); next(w)",
    "drops an asynchronous generator": """
async def main():
    g = async_generator()
    await anext(g)
    del g
asyncio.run(main())
""",
    "keeps an asynchronous generator": """
async def main():
    global g
    g = async_generator()
    await anext(g)
asyncio.run(main())
""",
    "cancels a waiting task": """
async def main():
    async with asyncio.timeout(0.3):
        async with free, needs:
            pass
asyncio.run(main())
""",
    "cancels a holding task": """
async def main():
    async with asyncio.timeout(0.3), free:
        await asyncio.sleep(60)
asyncio.run(main())
""",
    "forgets its loop": """
async def main():
    async with free:
        await asyncio.sleep(60)
loop = asyncio.new_event_loop()
task = loop.create_task(main())
while not rows("held"):
    loop.run_until_complete(asyncio.sleep(0.01))
""",
    "abandons threads": """
def work(what):
    with what:
        time.sleep(60)
for what in (free, needs):
    threading.Thread(target=work, args=(what,), daemon=True).start()
while not (rows("held") and rows("ticket")):
    time.sleep(0.01)
""",
    "interrupts itself in a block": """
with free:
    os.kill(os.getpid(), 2)
    time.sleep(60)
""",
    "forks and both leave": """
with free:
    os.fork()
""",
    "forks and the child exits": """
with free:
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
""",
    "starts a child that draws": """
import subprocess
with free as grant:
    code = "from prefect_slots import requires; import os; requires(gpu_mem=8).__enter__(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], env=grant.env, check=True)
""",
}


@pytest.fixture(scope="module")
def busy_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SharedMachine, dict[str, int]]]:
    """A machine on which a process that lives through all tests holds both seats; and what that leaves."""
    machine = SharedMachine(tmp_path_factory.mktemp("busy"))
    with Puppet(machine) as holder:
        holder.enter(license={"matlab": 2})
        yield machine, machine.traces()
        holder.leave()
    assert machine.traces() == {}


def emptied(machine: SharedMachine, rest: dict[str, int]) -> None:
    """Wait for what orphans may still be doing, reaping as any process does."""

    def is_empty() -> bool:
        machine.reap()
        return machine.traces() == rest

    until(is_empty, 10, what=f"{rest} and no more, but {machine.traces()}")


@pytest.mark.parametrize("path", PATHS)
def test_a_process_that_ends_so_leaves_nothing(busy_machine: tuple[SharedMachine, dict[str, int]], path: str) -> None:
    machine, rest = busy_machine
    done = subprocess.run(
        [sys.executable, "-c", START + PATHS[path]],
        cwd=ROOT,
        env=machine.env,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    words = ("coroutine ignored", "never awaited", "never retrieved", "Fatal", "Event loop is closed", "deadlock")
    assert not [word for word in words if word in done.stderr], done.stderr
    emptied(machine, rest)


HOLDING = """
with free, requires(license="ansys"):
    say("there")
"""
WAITING = """
import sqlite3
def look():
    file = sqlite3.connect(os.environ["PREFECT_SLOTS_STATE_DIR"] + "/ledger.sqlite3")
    while not file.execute("SELECT COUNT(*) FROM ticket").fetchone()[0]:
        time.sleep(0.01)
    print("there", flush=True)
threading.Thread(target=look, daemon=True).start()
with free, needs:
    pass
"""
ASYNC_WAITING = """
exec(WAITING.split("with free")[0])
async def main():
    async with free, needs:
        pass
asyncio.run(main())
""".replace("WAITING", repr(WAITING))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
@pytest.mark.parametrize("program", [HOLDING, WAITING, ASYNC_WAITING], ids=["holder", "waiter", "async waiter"])
def test_a_process_that_is_sent_a_signal_leaves_nothing(
    busy_machine: tuple[SharedMachine, dict[str, int]], sent: signal.Signals, program: str
) -> None:
    machine, rest = busy_machine
    child = subprocess.Popen(
        [sys.executable, "-c", START + program],
        cwd=ROOT,
        env=machine.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "there\n"
    assert machine.traces() != rest
    child.send_signal(sent)
    _, errors = child.communicate(timeout=20)
    assert child.returncode in (-sent, 1), errors
    if sent is signal.SIGINT:
        assert "KeyboardInterrupt" in errors
        assert machine.traces() == rest, "it has left by itself"
    emptied(machine, rest)


KILLED_ANYWHERE = """
import os, random, signal, sys, time
from prefect_slots import requires
with requires(cpus=1):
    pass
chance = random.Random(SEED)
for _ in range(25):
    child = os.fork()
    if child == 0:
        while True:
            with requires(gpu_mem=8, license="matlab"):
                with requires(gpu_mem=4):
                    pass
    time.sleep(chance.random() * 0.06)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with requires(gpus=2, license={"matlab": 2}, cpus=8, timeout=20):
        pass
print("all")
"""


@pytest.mark.parametrize("turn", range(2))
def test_a_process_killed_at_any_moment_leaves_nothing(tmp_path: Path, turn: int) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    machine = SharedMachine(tmp_path)
    assert run_python(machine, KILLED_ANYWHERE.replace("SEED", str(seed))) == "all\n"
    machine.reap()
    assert machine.traces() == {}
    assert machine.all("PRAGMA integrity_check") == [("ok",)]

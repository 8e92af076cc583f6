"""Asked to end by a signal, a key, a cancelled flow run or Prefect's clock: no slot stays, none is taken late."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from tests.support.boxes import Box, line
from tests.support.bystander import registered, take_everything, watch
from tests.support.forked import Forked
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer
from tests.support.workers import Worker, deploy, state_of, trigger, work_pool

from prefect_slots import requires

pytestmark = [
    pytest.mark.server,
    pytest.mark.xdist_group("faults"),
    # Prefect's flow engine leaves the connections of its own synchronous client to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def box(prefect_server: PrefectServer, tmp_path: Path) -> Iterator[Box]:
    """A machine in which this process takes part."""
    with registered(Box(tmp_path, prefect_server.url)) as made:
        yield made


@contextmanager
def running(box: Box, *command: str) -> Generator[subprocess.Popen[str]]:
    """Run a program on the machine; at the end of the block it is killed if need be."""
    pipe = subprocess.PIPE
    env = {**os.environ, **box.env}
    process = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def scanner_held(box: Box) -> Generator[Forked]:
    """Have another process hold the scanner."""
    holder = Forked(box, {"scanner": 1})
    assert holder.holds()
    yield holder
    holder.leave()
    assert holder.ended() == 0


HOLDS = """
from prefect_slots import requires
import time
with requires(scanner=1, license="LICENCE"):
    print(1, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_holder_and_a_waiter_that_are_sent_a_signal_leave_nothing(box: Box, sent: signal.Signals) -> None:
    def end(process: subprocess.Popen[str]) -> None:
        process.send_signal(sent)
        _, errors = process.communicate(timeout=30)
        assert process.returncode in (-sent, 1), errors
        assert ("KeyboardInterrupt" in errors) == (sent is signal.SIGINT)

    watch(box)
    program = (sys.executable, "-c", HOLDS.replace("LICENCE", box.matlab))
    with running(box, *program) as holder:
        line(holder)
        occupied = box.limits()
        with running(box, *program) as waiter:
            until(lambda: box.rows("ticket") == 1, what="the waiter")
            end(waiter)
        until(lambda: box.rows("ticket") == 0, what="its leaving the queue")
        assert box.limits() == occupied, "the holder's slots are its own"
        end(holder)
    if sent is signal.SIGINT:
        assert box.rows("held") == 0, "it has left by itself"
        assert box.limits() == {}
    box.assert_nothing_is_left()
    assert box.rows("history") == 2, "the holder's scanner and seat, and nothing of the waiter's"
    take_everything(box)


# `prefect-slots run` on a terminal of its own, to which what is written here is typed.
ON_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
CTRL_C = "\x03"


def on_a_terminal(box: Box, *command: str) -> AbstractContextManager[subprocess.Popen[str]]:
    run = (sys.executable, "-m", "prefect_slots", "run", "--resource", "scanner", "--", *command)
    return running(box, sys.executable, "-c", ON_A_TERMINAL, *run)


def typed(process: subprocess.Popen[str], keys: str) -> tuple[int, str]:
    """Type `keys`; return the exit code and all that was shown."""
    assert process.stdin is not None
    process.stdin.write(keys)
    process.stdin.flush()
    until(lambda: process.poll() is not None, 40, what="the end of the command")
    out, errors = process.communicate()
    return process.returncode, out + errors


def test_ctrl_c_on_run_while_it_waits(box: Box) -> None:
    with scanner_held(box), on_a_terminal(box, "echo", "ran") as waiting:
        assert waiting.stdout is not None
        # A ticket is in the ledger a moment before its waiter says so.
        assert "waits for 1 of scanner" in waiting.stdout.readline()
        assert box.rows("ticket") == 1
        code, shown = typed(waiting, CTRL_C)
        assert code == 128 + signal.SIGINT, shown
        assert "ran" not in shown.replace("echo ran", "")
        assert "Traceback" not in shown
        assert box.rows("ticket") == 0, "it has left by itself"
        assert box.limits() == {f"scanner:{box.name}": 1}
    box.assert_nothing_is_left()


def test_ctrl_c_on_run_while_its_command_runs(box: Box) -> None:
    with on_a_terminal(box, "sh", "-c", "echo there; exec sleep 60") as held:
        assert held.stdout is not None
        assert held.stdout.readline().strip() == "there"
        assert box.limits() == {f"scanner:{box.name}": 1}
        code, shown = typed(held, CTRL_C)
        assert code == 128 + signal.SIGINT, shown
        assert "Traceback" not in shown
        assert box.in_use() == {}, "it has given back by itself"
        assert box.limits() == {}


SCANS = """
import time
from pathlib import Path
from prefect import flow, task
from prefect_slots import requires

@task
@requires(scanner=1)
def scan(began: str):
    Path(began).touch()
    time.sleep(300)

@flow
def scans(began: str):
    scan(began)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_flow_runs_cancelled_from_the_command_line_while_one_holds_and_one_waits(box: Box, tmp_path: Path) -> None:
    def cancel(flow_run: str) -> None:
        command = [sys.executable, "-m", "prefect", "flow-run", "cancel", flow_run]
        done = subprocess.run(command, env={**os.environ, **box.env}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        until(lambda: state_of(box, flow_run) == "CANCELLED", 60, what=f"the cancellation\n{worker.log.read_text()}")

    with work_pool(box) as pool:
        deployment = deploy(box, pool, SCANS, "scans")
        worker = Worker(box, pool)
        try:
            holding = trigger(box, deployment, began=str(tmp_path / "first"))
            until((tmp_path / "first").exists, 60, what="the first task")
            waiting = trigger(box, deployment, began=str(tmp_path / "second"))
            until(lambda: box.rows("ticket") == 1, 60, what="the second task's ticket")
            cancel(waiting)
            until(lambda: box.rows("ticket") == 0, what="the second task's leaving the queue")
            assert box.limits() == {f"scanner:{box.name}": 1}
            cancel(holding)
            box.assert_nothing_is_left()
            assert not (tmp_path / "second").exists()
        finally:
            worker.stop()
    take_everything(box)


@task(timeout_seconds=1)
@requires(scanner=1)
def late() -> None:
    raise AssertionError("never granted")


@task(timeout_seconds=1)
@requires(scanner=1)
async def late_async() -> None:
    raise AssertionError("never granted")


@flow
def in_the_main_thread() -> str:
    return late(return_state=True).name or ""


@flow
def in_a_worker_thread() -> str:
    return late.submit(return_state=True).name or ""


@flow
async def in_a_loop() -> str:
    state: Any = late_async(return_state=True)
    return (await state).name or ""


@pytest.mark.parametrize("run", [in_the_main_thread, in_a_worker_thread, in_a_loop], ids=lambda run: run.name)
def test_a_task_that_prefect_times_out_while_it_waits_takes_no_slot_later(box: Box, run: Any) -> None:
    with scanner_held(box):
        assert (asyncio.run(run()) if run.isasync else run()) == "TimedOut"
        until(lambda: box.rows("ticket") == 0, what="its leaving the queue")
        assert box.limits() == {f"scanner:{box.name}": 1}
    box.assert_nothing_is_left()
    assert box.rows("history") == 1, "the holder's alone"
    take_everything(box)

"""Requests that are interrupted: whatever happens to the caller, its ticket and its grant end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import gc
import threading
import time
import uuid
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from tests.support.polling import until
from tests.support.processes import Puppet, SharedMachine, run_python

from prefect_slots import Grant, current_grant, requires
from prefect_slots.acquire import client
from prefect_slots.acquire.engine import Engine, engine
from prefect_slots.acquire.tickets import Held
from prefect_slots.errors import WaitTimeout
from prefect_slots.model.request import Request
from prefect_slots.model.requirement import declare
from prefect_slots.requiring.target import current_target


class Quiet:
    def waiting(self, reason: str) -> None:
        pass

    def resumed(self) -> None:
        pass


def target() -> client.Target:
    found = current_target()
    assert found is not None
    return found


def ask(timeout: float | None = None) -> Request:
    return Request(id=uuid.uuid4().hex, requirement=declare(scanner=1), timeout=timeout)


def test_an_answer_that_comes_as_a_look_for_it_ends_is_not_lost(
    machine: SharedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(concurrent.futures.Future[Any]):
        """An answer that is there just after a bounded look has given up."""

        def __init__(self, answer: concurrent.futures.Future[Any]) -> None:
            super().__init__()
            self.answer = answer

        def result(self, timeout: float | None = None) -> Any:
            if timeout is not None and not self.done():
                self.set_result(self.answer.result())
                raise concurrent.futures.TimeoutError
            return super().result(timeout)

    class LateEngine(Engine):
        def submit(self, work: Any) -> Any:
            return Late(super().submit(work))

    late_engine = LateEngine()
    monkeypatch.setattr(client, "engine", lambda: late_engine)
    held = client.acquire(target(), ask(), Quiet())
    assert isinstance(held, Held)
    late_engine.close()
    assert machine.traces() == {}


class Interrupted(BaseException):
    pass


def test_a_release_that_is_interrupted_is_done_all_the_same(
    machine: SharedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = client.acquire(target(), ask(), Quiet())
    hold_up = threading.Event()
    engine().call(partial(hold_up.wait, 30))

    def interrupted(*_: object, **__: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(concurrent.futures.Future, "result", interrupted)
        with pytest.raises(Interrupted):
            client.release(target(), held.id)
    hold_up.set()
    machine.until_empty(but=("owner",))


# One may be hit before or after what it is to survive.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_threads_interrupted_anywhere_as_they_give_back_leave_nothing_and_keep_nobody_waiting(
    machine: SharedMachine,
) -> None:
    interrupted = 0

    def give_back(held: Held, begun: threading.Event) -> None:
        nonlocal interrupted
        try:
            begun.set()
            client.release(here, held.id)
        except Interrupted:
            interrupted += 1

    here = target()
    for attempt in range(300):
        held = client.acquire(here, ask(timeout=20), Quiet())
        begun = threading.Event()
        thread = threading.Thread(target=give_back, args=(held, begun))
        thread.start()
        begun.wait()
        for _ in range(attempt % 60):  # from before the transaction to after it
            time.thread_time()
        assert thread.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Interrupted))
        thread.join(20)
        assert not thread.is_alive()
    assert interrupted > 30
    machine.until_empty(but=("owner",))


def test_a_grant_that_nobody_holds_on_to_ends(machine: SharedMachine) -> None:
    held = client.acquire(target(), ask(), Quiet())
    assert machine.count("held") == 1
    del held
    gc.collect()
    machine.until_empty(but=("owner",))


def test_a_generator_that_the_engine_s_own_thread_collects_gives_back(machine: SharedMachine) -> None:
    @requires(scanner=1)
    def steps() -> Generator[int]:
        yield 1

    kept: list[Any] = [steps()]
    next(kept[0])

    async def collect() -> None:
        # In the middle of a transaction, where any allocation may start the collector.
        part = next(part for part in engine().parts.values())
        part.ledger.transact(lambda tx: (tx.set_meta("mark", "set"), kept.clear())[0])

    engine().submit(collect()).result(30)
    machine.until_empty(but=("owner",))
    assert machine.all("SELECT value FROM meta WHERE key='mark'") == [("set",)]


@pytest.mark.parametrize("held_by", ["waiting", "holding"])
def test_a_cancelled_task_leaves_nothing(machine: SharedMachine, held_by: str) -> None:
    async def work() -> None:
        async with requires(scanner=1):
            entered.set()
            await asyncio.sleep(60)

    entered = asyncio.Event()

    async def main() -> None:
        task = asyncio.create_task(work())
        if held_by == "holding":
            await entered.wait()
        else:
            while machine.count("ticket") == 0:
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    if held_by == "holding":
        asyncio.run(main())
        machine.until_empty(but=("owner",))
    else:
        with Puppet(machine) as other:
            other.enter(scanner=1)
            asyncio.run(main())
            until(lambda: machine.count("ticket") == 0)
            assert machine.count("held") == 1


def test_a_task_cancelled_while_it_gives_back_gives_back(machine: SharedMachine) -> None:
    async def main() -> None:
        hold_up = threading.Event()

        async def work() -> None:
            async with requires(scanner=1):
                engine().call(partial(hold_up.wait, 30))

        task = asyncio.create_task(work())
        while not (running := [t for t in asyncio.all_tasks() if t is task]) or not leaving(task):
            await asyncio.sleep(0.01)
        assert running
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        hold_up.set()
        while machine.count("held"):
            await asyncio.sleep(0.01)

    def leaving(task: asyncio.Task[None]) -> bool:
        frames: list[str] = []
        awaited: Any = task.get_coro()
        while awaited is not None and hasattr(awaited, "cr_code"):
            frames.append(awaited.cr_code.co_name)
            awaited = awaited.cr_await
        return "release_async" in frames

    asyncio.run(main())
    machine.until_empty(but=("owner",))


def test_a_loop_that_ends_under_a_waiting_task_leaves_nothing(machine: SharedMachine) -> None:
    with Puppet(machine) as other:
        other.enter(scanner=1)
        loop = asyncio.new_event_loop()
        waiting = loop.create_task(_enter())
        loop.run_until_complete(asyncio.sleep(0))
        while machine.count("ticket") == 0:
            loop.run_until_complete(asyncio.sleep(0.01))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(waiting)
        loop.close()
        until(lambda: machine.count("ticket") == 0)


async def _enter() -> None:
    async with requires(scanner=1):
        pass


def test_a_hook_that_fails_leaves_nothing(machine: SharedMachine) -> None:
    class Failing(Quiet):
        def waiting(self, reason: str) -> None:
            raise LookupError(reason)

    with Puppet(machine) as other:
        other.enter(scanner=1)
        with pytest.raises(LookupError, match="waits for 1 of scanner"):
            client.acquire(target(), ask(), Failing())
        until(lambda: machine.count("ticket") == 0)


def test_hooks_are_told_once_and_only_of_a_wait(machine: SharedMachine) -> None:
    told: list[str] = []

    class Telling:
        def waiting(self, reason: str) -> None:
            told.append(reason)

        def resumed(self) -> None:
            told.append("goes on")

    client.release(target(), client.acquire(target(), ask(), Telling()).id)
    assert told == []
    with Puppet(machine) as other:
        other.enter(scanner=1)
        leaver = threading.Timer(0.5, other.leave)
        leaver.start()
        held = client.acquire(target(), ask(), Telling())
        leaver.join()
        assert held.waited > 0.1
        client.release(target(), held.id)
    assert told == ["waits for 1 of scanner; 0 free", "goes on"]


def test_a_time_out_leaves_nothing(machine: SharedMachine) -> None:
    with Puppet(machine) as other:
        other.enter(scanner=1)
        began = time.monotonic()
        with pytest.raises(WaitTimeout):
            client.acquire(target(), ask(timeout=0.3), Quiet())
        assert time.monotonic() - began >= 0.3
        assert machine.count("ticket") == 0
        assert machine.count("shape") == 0


def test_a_waiting_thread_can_be_stopped_by_an_exception_from_outside(machine: SharedMachine) -> None:
    # Prefect stops a task in a worker thread so; the exception is raised only when the thread runs Python code.
    class Stopped(BaseException):
        pass

    def work() -> str:
        try:
            client.acquire(target(), ask(), Quiet())
        except Stopped:
            return "stopped"
        return "granted"

    with Puppet(machine) as other, ThreadPoolExecutor(1) as pool:
        other.enter(scanner=1)
        thread = pool.submit(threading.get_ident).result(30)
        waiting = pool.submit(work)
        machine.waiting(1)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Stopped))
        try:
            assert waiting.result(10) == "stopped"
        finally:
            other.leave()
    until(lambda: machine.count("ticket") + machine.count("held") == 0)


ABANDONED = """
import threading, time
from prefect_slots import requires
entered = threading.Event()
def work(needs):
    with requires(**needs):
        entered.set()
        time.sleep(1000)
threading.Thread(target=work, args=({"scanner": 1},), daemon=True).start()
assert entered.wait(30)
threading.Thread(target=work, args=({"scanner": 1},), daemon=True).start()
import sqlite3, os
while not sqlite3.connect(os.environ["PREFECT_SLOTS_STATE_DIR"] + "/ledger.sqlite3").execute(
    "SELECT COUNT(*) FROM ticket").fetchone()[0]:
    time.sleep(0.01)
"""
UNFINISHED = """
from prefect_slots import requires
@requires(scanner=1)
def steps():
    yield 1
kept = steps()
next(kept)
block = requires(license="matlab")
block.__enter__()
"""
NEVER_AWAITED = """
import asyncio
from prefect_slots import requires
@requires(scanner=1)
async def work():
    await asyncio.sleep(1000)
async def main():
    global kept
    kept = asyncio.create_task(work())
    await asyncio.sleep(0.5)
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
"""


@pytest.mark.parametrize("program", [ABANDONED, UNFINISHED, NEVER_AWAITED], ids=["threads", "generator", "coroutine"])
def test_a_program_that_ends_in_the_middle_leaves_nothing(machine: SharedMachine, program: str) -> None:
    run_python(machine, program, seconds=30)
    assert machine.traces() == {}


def test_a_grant_outlives_the_engine_that_gave_it_as_an_ended_one(machine: SharedMachine) -> None:
    from prefect_slots.acquire.engine import close_engine

    kept: Grant
    with requires(scanner=1) as kept:
        close_engine()
        assert machine.traces() == {}
        assert current_grant() is kept
    assert kept.ended
    assert machine.traces().keys() <= {"owner"}

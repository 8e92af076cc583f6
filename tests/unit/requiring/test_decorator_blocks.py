"""`with requires(...)` and `async with requires(...)`: one object entered by many, each leaving with its own grant."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from contextvars import copy_context

import pytest
from tests.support.processes import SharedMachine

from prefect_slots import Grant, current_grant, requires


def test_a_block_holds_while_it_runs(machine: SharedMachine) -> None:
    with requires(gpu_mem=8) as grant:
        assert current_grant() is grant
        assert machine.count("held") == 1
        assert not grant.ended
    assert grant.ended
    assert current_grant() is None
    assert machine.traces().keys() == {"owner"}


def test_it_asks_for_the_flow_run_that_started_the_process_or_else_for_the_process(
    machine: SharedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "a-flow-run")
    with requires(scanner=1):
        assert machine.all("SELECT run FROM held") == [("a-flow-run",)]
    monkeypatch.delenv("PREFECT__FLOW_RUN_ID")
    with requires(scanner=1):
        assert machine.all("SELECT run=owner FROM held") == [(1,)]


def test_a_block_left_by_an_exception_gives_back(machine: SharedMachine) -> None:
    with pytest.raises(LookupError), requires(gpu_mem=8):
        raise LookupError
    assert machine.traces().keys() == {"owner"}


def test_an_asynchronous_block_holds_while_it_runs(machine: SharedMachine) -> None:
    async def main() -> None:
        async with requires(gpu_mem=8) as grant:
            assert current_grant() is grant
            assert machine.count("held") == 1
        assert grant.ended
        assert machine.count("held") == 0

    asyncio.run(main())


def test_an_asynchronous_block_waits_without_holding_up_its_loop(machine: SharedMachine) -> None:
    async def main() -> None:
        async with requires(scanner=1):

            async def second() -> str:
                async with requires(scanner=1) as grant:
                    return grant.id

            # A task of its own, begun outside this grant, waits for the scanner itself.
            waiting = asyncio.get_running_loop().create_task(second(), context=outside)
            while machine.count("ticket") == 0:
                await asyncio.sleep(0.01)
        assert await waiting

    outside = copy_context()
    asyncio.run(main())
    assert machine.count("held") == 0


def test_one_object_nests_in_itself(machine: SharedMachine) -> None:
    seat = requires(license="matlab")
    with seat as outer:
        with seat as inner:
            assert inner.parent is outer
        assert inner.ended
        assert not outer.ended
    assert outer.ended
    assert machine.count("held") == 0


def test_one_object_entered_by_many_threads_gives_each_its_own(
    machine: SharedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Threads change hands at every step, and `off` leaves nothing but the bookkeeping of who entered.
    monkeypatch.setenv("PREFECT_SLOTS_COORDINATION", "off")
    shared = requires(gpu_mem=1)
    with shared:
        pass
    wrong: list[str] = []
    begin = threading.Barrier(8)

    def work() -> None:
        begin.wait()
        try:
            for _ in range(1000):
                with shared as mine:
                    if mine.ended or current_grant() is not mine:
                        wrong.append("somebody else ended it")
                if not mine.ended:
                    wrong.append("it ended somebody else's")
        except LookupError as error:
            wrong.append(str(error))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)
    assert not wrong
    assert machine.count("held") == 0


def test_one_object_entered_by_many_tasks_gives_each_its_own(machine: SharedMachine) -> None:
    seat = requires(license="ansys")
    entered = asyncio.Event()

    async def work(turn: int, order: list[asyncio.Event]) -> Grant:
        async with seat as grant:
            if machine.count("held") == 3:
                entered.set()
            await entered.wait()
            await order[turn].wait()
            assert not grant.ended
        assert grant.ended
        order[turn + 1].set()
        return grant

    async def main() -> None:
        order = [asyncio.Event() for _ in range(4)]
        order[0].set()
        # They leave in the order in which they came, not the reverse.
        grants = await asyncio.gather(*(work(turn, order) for turn in range(3)))
        assert len({grant.id for grant in grants}) == 3

    asyncio.run(main())
    assert machine.count("held") == 0


def test_blocks_in_generators_that_end_out_of_order_give_back_their_own(machine: SharedMachine) -> None:
    seat = requires(license="ansys")

    def steps() -> Generator[Grant]:
        with seat as grant:
            yield grant

    first, second = steps(), steps()
    one, other = next(first), next(second)
    assert [*first] == []
    assert (one.ended, other.ended) == (True, False)
    assert [*second] == []
    assert other.ended
    assert machine.count("held") == 0


def test_a_block_that_ends_in_another_thread_gives_back_its_own(machine: SharedMachine) -> None:
    seat = requires(license="ansys")

    def steps() -> Iterator[Grant]:
        with seat as grant:
            yield grant

    begun = steps()
    mine: list[Grant] = []
    starter = threading.Thread(target=lambda: mine.append(next(begun)))
    starter.start()
    starter.join(30)
    with seat as here:
        # Ended by this thread, which has entered the same object itself and later.
        assert [*begun] == []
        assert mine[0].ended
        assert not here.ended
    assert here.ended
    assert machine.count("held") == 0


def test_an_exit_stack_gives_back_in_reverse(machine: SharedMachine) -> None:
    seat = requires(license="ansys")
    with ExitStack() as stack:
        grants = [stack.enter_context(seat) for _ in range(3)]
        stack.callback(lambda: [grant.ended for grant in grants] == [False] * 3 or pytest.fail("ended early"))
    assert all(grant.ended for grant in grants)
    assert machine.count("held") == 0


def test_leaving_what_was_never_entered_is_an_error_and_ends_nothing(machine: SharedMachine) -> None:
    seat = requires(license="matlab")
    with requires(license="matlab"):
        with pytest.raises(RuntimeError, match="not entered"):
            seat.__exit__(None, None, None)
        assert machine.count("held") == 1


def test_an_ended_block_can_be_entered_again(machine: SharedMachine) -> None:
    seat = requires(license="matlab")
    with seat as one:
        pass
    with seat as other:
        assert one.id != other.id
    assert machine.count("held") == 0

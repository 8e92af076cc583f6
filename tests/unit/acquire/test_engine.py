"""The engine's thread: what it calls, and how it ends."""

from __future__ import annotations

import asyncio
import threading

import pytest

from prefect_slots.acquire.engine import Engine


def test_what_is_called_runs_in_the_engine_s_thread_and_its_answer_comes_back():
    engine = Engine()
    try:
        assert engine.call(threading.get_ident).result(10) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            engine.call(lambda: 1 // 0).result(10)
    finally:
        engine.close()


def test_a_call_does_not_overtake_what_was_submitted_before_it():
    engine = Engine()
    begun: list[str] = []

    async def begin() -> None:
        begun.append("submitted")

    try:
        busy = threading.Event()
        held_up = engine.call(lambda: busy.wait(10))
        engine.submit(begin())
        order = engine.call(begun.copy)
        busy.set()
        assert held_up.result(10)
        assert order.result(10) == ["submitted"]
    finally:
        engine.close()


def test_its_parts_end_together_so_that_none_uses_up_the_time_of_the_others():
    engine = Engine()
    met: list[int] = []

    async def both() -> None:
        both_end = asyncio.Barrier(2)

        async def end() -> None:
            met.append(await both_end.wait())

        engine.at_close(end)
        engine.at_close(end)

    engine.submit(both()).result(10)
    engine.close()
    assert sorted(met) == [0, 1]


def test_a_part_that_fails_to_end_keeps_no_other_from_ending_and_is_told():
    engine = Engine()
    ended: list[str] = []

    async def fail() -> None:
        raise OSError("the disk is gone")

    async def end() -> None:
        ended.append("other")

    engine.at_close(end)
    engine.at_close(fail)
    engine.at_close(end)
    with pytest.raises(OSError, match="gone"):
        engine.close()
    assert ended == ["other", "other"]

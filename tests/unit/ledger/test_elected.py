"""The elected loop: one process of the machine has the role, and its jobs neither stop it nor each other."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from tests.support.processes import member

from prefect_slots.errors import ServerUnreachable, SlotsError
from prefect_slots.ledger import election
from prefect_slots.ledger.elected import ElectedLoop
from prefect_slots.system import clock

ROLE = "keeper"
SOON = 5.0


def test_one_process_has_the_role_and_another_takes_over_when_it_goes_stale(tmp_path: Path) -> None:
    async def scenario() -> None:
        with member(tmp_path) as (one, _), member(tmp_path) as (other, _):
            done = asyncio.Event()

            async def job() -> None:
                done.set()

            one.transact(lambda tx: election.take(tx, ROLE, clock.boot_clock() - election.STALE_SECONDS + 0.3))
            loop = ElectedLoop(other, ROLE, lambda: {"job": job}, idle_seconds=0.05)
            running = asyncio.create_task(loop.run())
            await asyncio.sleep(0.1)
            assert not done.is_set()
            await asyncio.wait_for(done.wait(), SOON)
            running.cancel()
            assert one.read(lambda tx: election.held_by_other(tx, ROLE, clock.boot_clock()))

    asyncio.run(scenario())


def test_who_offers_nothing_leaves_the_role_to_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        with member(tmp_path) as (one, _), member(tmp_path) as (other, _):
            running = asyncio.create_task(ElectedLoop(one, ROLE, dict, offers=lambda: False).run())
            await asyncio.sleep(0.05)
            running.cancel()
            assert not other.read(lambda tx: election.held_by_other(tx, ROLE, clock.boot_clock()))

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [ServerUnreachable(url="http://x", cause="away"), RuntimeError("broken")])
def test_the_error_of_a_job_is_told_and_survived(
    tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        with member(tmp_path) as (ledger, _):
            other, again = asyncio.Event(), asyncio.Event()
            failed: list[SlotsError] = []
            runs: list[int] = []

            async def broken() -> None:
                runs.append(1)
                if len(runs) > 1:
                    again.set()
                raise error

            async def sound() -> None:
                other.set()

            jobs = {"broken": broken, "sound": sound}
            loop = ElectedLoop(ledger, ROLE, lambda: jobs, beat_seconds=0.02, failed=failed.append)
            running = asyncio.create_task(loop.run())
            await asyncio.wait_for(asyncio.gather(other.wait(), again.wait()), SOON)
            running.cancel()
            assert bool(failed) == isinstance(error, SlotsError)

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert ("failed" in caplog.text) != isinstance(error, SlotsError)


def test_a_job_that_still_runs_is_started_once_more_if_a_nudge_asked_for_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        with member(tmp_path) as (ledger, _):
            started: list[int] = []
            go_on, twice = asyncio.Event(), asyncio.Event()

            async def slow() -> None:
                started.append(1)
                if len(started) > 1:
                    twice.set()
                await go_on.wait()

            loop = ElectedLoop(ledger, ROLE, lambda: {"slow": slow}, beat_seconds=60)
            running = asyncio.create_task(loop.run())
            await asyncio.sleep(0.05)
            loop.nudge()
            loop.nudge()
            await asyncio.sleep(0.05)
            assert started == [1]
            go_on.set()
            await asyncio.wait_for(twice.wait(), SOON)
            await asyncio.sleep(0.05)
            assert started == [1, 1]
            running.cancel()

    asyncio.run(scenario())


def test_its_end_cancels_the_jobs(tmp_path: Path) -> None:
    async def scenario() -> None:
        with member(tmp_path) as (ledger, _):
            cancelled: list[bool] = []

            async def slow() -> None:
                try:
                    await asyncio.sleep(60)
                finally:
                    cancelled.append(True)

            running = asyncio.create_task(ElectedLoop(ledger, ROLE, lambda: {"slow": slow}).run())
            await asyncio.sleep(0.05)
            running.cancel()
            await asyncio.wait([running], timeout=SOON)
            assert cancelled == [True]

    asyncio.run(scenario())


@pytest.mark.parametrize("steps", range(6))
def test_a_nudge_does_not_hide_the_cancellation(tmp_path: Path, steps: int) -> None:
    async def scenario() -> None:
        with member(tmp_path) as (ledger, _):
            loop = ElectedLoop(ledger, ROLE, dict)
            running = asyncio.create_task(loop.run())
            for _ in range(5):
                await asyncio.sleep(0)
            loop.nudge()
            for _ in range(steps):
                await asyncio.sleep(0)
            running.cancel()
            done, _ = await asyncio.wait([running], timeout=2)
            assert done == {running}

    asyncio.run(scenario())

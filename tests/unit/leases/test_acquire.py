"""Leases taken for a grant: all or none, intent first, and a lost answer taken for what it is."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.leases.scene import FLEET, HERE, SCANNER, Scene

from prefect_slots.errors import LimitMissing
from prefect_slots.leases.acquire import Cause
from prefect_slots.ledger.leases import LeaseState


def test_a_grant_occupies_each_limit_and_mirror_once_in_canonical_order(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.held(seats=1, scanner=2)
        assert scene.counts(SCANNER) == (2, 2)
        assert scene.counts(FLEET) == scene.counts(HERE) == (1, 1)
        assert scene.states == [LeaseState.LEASE, LeaseState.LEASE]
        assert [name for name, _ in scene.announcer.told] == [SCANNER, FLEET, HERE]

    scene.run(scenario)


def test_what_was_handed_over_is_not_asked_for_again(scene: Scene) -> None:
    async def scenario() -> None:
        first = await scene.held(scanner=2)
        second = scene.enqueue(scanner=2)
        scene.leave(first)
        grant = scene.ledger.read(lambda tx: tx.grant(second))
        assert await scene.occupy(grant) is None
        assert scene.server.asked == ["occupy"]
        assert scene.row().held == second

    scene.run(scenario)


def test_a_refusal_leaves_what_was_taken_recorded_and_it_is_given_back(scene: Scene) -> None:
    async def scenario() -> None:
        scene.server.take([FLEET], 2)
        grant = scene.grant(seats=1, scanner=2)
        refusal = await scene.occupy(grant)
        assert refusal is not None
        assert refusal.cause is Cause.FULL
        assert refusal.call.names == (FLEET, HERE)
        assert scene.row().names == (SCANNER,)
        scene.leave(grant)
        await scene.releaser.drain(5)
        assert scene.counts(SCANNER) == (0, 0)
        assert scene.counts(FLEET) == (2, 0)
        assert scene.rows() == []

    scene.run(scenario)


def test_a_lost_answer_leaves_its_intent_and_is_not_repeated(scene: Scene) -> None:
    async def scenario() -> None:
        scene.server.lose_answer_to("occupy")
        grant = scene.grant(scanner=1)
        refusal = await scene.occupy(grant)
        assert refusal is not None
        assert refusal.cause is Cause.UNKNOWN
        assert scene.states == [LeaseState.INTENT]
        # A server that was just found not to answer is left alone for a moment.
        refusal = await scene.occupy(scene.grant(scanner=1))
        assert refusal is not None
        assert refusal.cause is Cause.AWAY
        assert scene.server.asked == ["occupy"]

    scene.run(scenario)


def test_a_server_that_is_away_takes_nothing(scene: Scene) -> None:
    async def scenario() -> None:
        scene.server.is_away = True
        refusal = await scene.occupy(scene.grant(scanner=1))
        assert refusal is not None
        assert refusal.cause is Cause.AWAY
        assert scene.rows() == []
        scene.server.is_away = False
        scene.time.pass_by(2)
        assert await scene.occupy(scene.grant(scanner=1)) is None
        assert scene.acquirer.away_since is None

    scene.run(scenario)


def test_a_limit_that_is_missing_is_an_error_and_leaves_nothing(scene: Scene) -> None:
    async def scenario() -> None:
        scene.server.delete(SCANNER)
        with pytest.raises(LimitMissing):
            await scene.occupy(scene.grant(scanner=1))
        assert scene.rows() == []

    scene.run(scenario)


def test_an_answer_to_a_cancelled_call_is_recorded_and_given_back(scene: Scene) -> None:
    async def scenario() -> None:
        grant = scene.grant(scanner=1)
        asking = asyncio.create_task(scene.occupy(grant))
        while not scene.rows():
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        scene.leave(grant)
        await asyncio.sleep(1)
        await scene.releaser.drain(5)
        assert scene.server.asked == ["occupy", "release"]
        assert scene.counts(SCANNER) == (0, 0)
        assert scene.rows() == []

    scene.run(scenario)


def test_a_grant_that_ended_meanwhile_is_given_back_what_came_for_it(scene: Scene) -> None:
    async def scenario() -> None:
        grant = scene.grant(scanner=1)
        asking = asyncio.create_task(scene.occupy(grant))
        while not scene.rows():
            await asyncio.sleep(0)
        scene.leave(grant)
        refusal = await asking
        assert refusal is not None
        assert refusal.cause is Cause.GONE
        scene.releaser.sweep()
        await scene.releaser.drain(5)
        assert scene.counts(SCANNER) == (0, 0)

    scene.run(scenario)


def test_own_releases_under_way_are_waited_for(scene: Scene) -> None:
    async def scenario() -> None:
        first = await scene.held(scanner=2)
        scene.ledger.plan = None  # nothing is handed over
        scene.leave(first)
        assert await scene.occupy(scene.grant(scanner=1)) is None
        assert scene.server.asked == ["occupy", "release", "occupy"]

    scene.run(scenario)

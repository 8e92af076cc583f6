"""Leases given back: each once, and a lost answer settled before anything is repeated."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from tests.unit.leases.scene import FLEET, HERE, SCANNER, Scene

from prefect_slots.leases.release import SETTLED_SECONDS
from prefect_slots.ledger import leases
from prefect_slots.ledger.leases import LEASE_SECONDS, LeaseState


def test_each_lease_is_released_once_however_often_it_is_swept(scene: Scene) -> None:
    async def scenario() -> None:
        grant = await scene.held(seats=2, scanner=1)
        scene.leave(grant)
        for _ in range(3):
            scene.releaser.sweep()
            await asyncio.sleep(0)
        await scene.releaser.drain(5)
        assert scene.server.asked.count("release") == 2
        assert scene.counts(SCANNER) == scene.counts(FLEET) == scene.counts(HERE) == (0, 0)
        assert scene.rows() == []

    scene.run(scenario)


def test_a_release_whose_answer_is_lost_is_not_sent_again(scene: Scene) -> None:
    async def scenario() -> None:
        kept = await scene.held(scanner=1)
        grant = await scene.held(scanner=1)
        scene.server.lose_answer_to("release")
        began = scene.time()
        scene.leave(grant)
        await scene.releaser.drain(60)
        assert scene.time() - began >= SETTLED_SECONDS
        assert scene.server.asked.count("release") == 1
        assert "release by holder" not in scene.server.asked
        assert scene.counts(SCANNER) == (1, 1)
        assert scene.row().held == kept.id

    scene.run(scenario)


def test_a_release_that_never_arrived_is_repeated_by_holder_once_it_has_settled(scene: Scene) -> None:
    async def scenario() -> None:
        grant = await scene.held(scanner=1)
        scene.server.lose("release")
        began = scene.time()
        scene.leave(grant)
        await scene.releaser.drain(60)
        assert scene.time() - began >= SETTLED_SECONDS
        assert scene.server.asked.count("release by holder") == 1
        assert scene.counts(SCANNER) == (0, 0)
        assert scene.rows() == []

    scene.run(scenario)


@pytest.mark.parametrize("applied", [True, False])
def test_an_increment_whose_answer_is_lost_is_looked_up_and_given_back(scene: Scene, applied: bool) -> None:
    async def scenario() -> None:
        (scene.server.lose_answer_to if applied else scene.server.lose)("occupy")
        grant = scene.grant(scanner=2)
        assert await scene.occupy(grant) is not None
        assert scene.counts(SCANNER) == ((2, 2) if applied else (0, 0))
        began = scene.time()
        scene.leave(grant)
        await scene.releaser.drain(60)
        # What is listed is given back at once; that nothing is listed proves nothing before it has settled.
        assert (scene.time() - began < 1) is applied
        assert scene.server.asked.count("release by holder") == (1 if applied else 0)
        assert scene.counts(SCANNER) == (0, 0)
        assert scene.rows() == []

    scene.run(scenario)


def test_a_server_that_is_away_is_tried_until_it_answers(scene: Scene) -> None:
    async def scenario() -> None:
        grant = await scene.held(scanner=1)
        scene.server.is_away = True
        scene.leave(grant)
        await scene.releaser.drain(30)
        assert scene.states == [LeaseState.RELEASING]
        scene.server.is_away = False
        await scene.releaser.drain(30)
        assert scene.counts(SCANNER) == (0, 0)
        assert scene.rows() == []

    scene.run(scenario)


def test_a_lapsing_lease_is_left_to_the_server(scene: Scene) -> None:
    async def scenario() -> None:
        grant = await scene.held(scanner=1)
        scene.time.pass_by(LEASE_SECONDS - 5)
        scene.leave(grant)
        await scene.releaser.drain(5)
        assert "release" not in scene.server.asked
        assert scene.states == [LeaseState.LAPSED]
        scene.time.pass_by(30)
        assert scene.counts(SCANNER) == (0, 0)

    scene.run(scenario)


def test_nothing_is_released_while_its_count_is_repaired(scene: Scene) -> None:
    async def scenario() -> None:
        grant = await scene.held(scanner=1)
        latch = scene.ledger.transact(lambda tx: leases.latch(tx, (SCANNER,), scene.time()))
        scene.leave(grant)
        await scene.releaser.drain(5)
        assert "release" not in scene.server.asked
        scene.ledger.transact(lambda tx: leases.forget(tx, latch, scene.time()))
        await scene.releaser.drain(5)
        assert scene.counts(SCANNER) == (0, 0)

    scene.run(scenario)


def test_a_lease_that_the_server_forgot_is_answered_alike_and_stays_counted(scene: Scene) -> None:
    async def scenario() -> None:
        grant = await scene.held(scanner=1)
        scene.server.restart()
        scene.leave(grant)
        await scene.releaser.drain(5)
        assert scene.rows() == []
        assert scene.counts(SCANNER) == (1, 1)  # a repair takes it off

    scene.run(scenario)


def test_with_the_mirror_goes_all_that_a_look_up_could_tell(scene: Scene) -> None:
    async def scenario() -> None:
        scene.server.lose_answer_to("occupy")
        grant = scene.grant(scanner=1)
        assert await scene.occupy(grant) is not None
        scene.server.delete(scene.gateway.mirror(SCANNER))
        scene.leave(grant)
        await scene.releaser.drain(5)
        assert scene.rows() == []

    scene.run(scenario)


def test_a_second_release_of_one_lease_frees_nobody_else_s_slots(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.held(scanner=1)
        await scene.gateway.release(uuid4())
        assert scene.counts(SCANNER) == (1, 1)

    scene.run(scenario)

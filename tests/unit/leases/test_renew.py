"""Leases renewed in time, whoever holds them, and taken again once they are lost."""

from __future__ import annotations

import pytest
from tests.unit.leases.scene import SCANNER, Scene

from prefect_slots.leases.reconcile import reconcile
from prefect_slots.ledger.leases import LEASE_SECONDS, LeaseState


def test_a_lease_is_renewed_after_a_third_of_its_life_and_not_before(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.held(scanner=1)
        scene.time.pass_by(LEASE_SECONDS / 3 - 2)
        await scene.renewal.renew()
        assert "renew" not in scene.server.asked
        scene.time.pass_by(5)
        await scene.renewal.renew()
        assert scene.server.asked.count("renew") == 1
        deadline = scene.row().deadline
        assert deadline is not None
        assert deadline >= scene.time() + LEASE_SECONDS - 1

    scene.run(scenario)


def test_renewed_again_and_again_a_lease_outlives_its_first_end(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.held(scanner=1)
        for _ in range(10):
            scene.time.pass_by(LEASE_SECONDS / 2)
            await scene.renewal.renew()
        assert scene.counts(SCANNER) == (1, 1)
        assert scene.states == [LeaseState.LEASE]

    scene.run(scenario)


def test_a_lost_renewal_is_tried_again(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.held(scanner=1)
        scene.time.pass_by(LEASE_SECONDS / 2)
        scene.server.lose("renew")
        await scene.renewal.renew()
        await scene.renewal.renew()
        assert scene.server.asked.count("renew") == 1  # not at once
        scene.time.pass_by(6)
        await scene.renewal.renew()
        assert scene.server.asked.count("renew") == 2
        assert scene.states == [LeaseState.LEASE]

    scene.run(scenario)


def test_a_lease_that_the_server_forgot_and_still_counts_becomes_a_ghost(scene: Scene) -> None:
    async def scenario() -> None:
        grant = await scene.held(scanner=1)
        told: list[None] = []
        scene.renewal.forgotten = lambda: told.append(None)
        scene.server.restart()
        scene.time.pass_by(LEASE_SECONDS / 2)
        await scene.renewal.renew()
        assert told == [None]
        assert await reconcile(scene.ledger, scene.gateway, answering_since=scene.time() - 100) == ()
        assert scene.states == [LeaseState.GHOST]
        assert scene.counts(SCANNER) == (1, 1)
        assert not scene.column(grant, "unbacked")

    scene.run(scenario)


def test_a_lease_that_the_server_forgot_and_counts_no_more_is_taken_again(scene: Scene) -> None:
    async def scenario() -> None:
        grant = await scene.held(scanner=1)
        scene.server.restart()
        for name in (SCANNER, scene.gateway.mirror(SCANNER)):
            scene.server.change(name, -1)
        scene.time.pass_by(LEASE_SECONDS / 2)
        await scene.renewal.renew()
        await reconcile(scene.ledger, scene.gateway, answering_since=scene.time() - 100)
        assert scene.column(grant, "unbacked")
        assert scene.column(grant, "lost") == SCANNER
        await scene.renewal.back()
        assert not scene.column(grant, "unbacked")
        assert scene.states == [LeaseState.LEASE]
        assert scene.counts(SCANNER) == (1, 1)

    scene.run(scenario)


def test_a_lease_that_ran_out_is_not_renewed_and_taken_again_when_there_is_room(scene: Scene) -> None:
    async def scenario() -> None:
        grant = await scene.held(scanner=2)
        scene.time.pass_by(LEASE_SECONDS + 1)
        await scene.renewal.renew()
        assert "renew" not in scene.server.asked
        assert scene.states == [LeaseState.LAPSED]
        await scene.renewal.back()
        assert scene.column(grant, "unbacked")  # the server has not taken the old lease back yet
        scene.time.pass_by(20)
        assert scene.counts(SCANNER) == (0, 0)
        await scene.renewal.back()
        assert not scene.column(grant, "unbacked")
        assert scene.counts(SCANNER) == (2, 2)

    scene.run(scenario)


@pytest.mark.parametrize("applied", [True, False])
def test_a_lost_answer_as_a_lease_is_taken_again_takes_no_second_one(scene: Scene, applied: bool) -> None:
    async def scenario() -> None:
        grant = scene.grant(scanner=1)
        scene.acquirer.go_without(grant.id)
        (scene.server.lose_answer_to if applied else scene.server.lose)("occupy")
        await scene.renewal.back()
        assert scene.column(grant, "unbacked")
        await scene.releaser.drain(60)
        assert scene.counts(SCANNER) == (0, 0)
        scene.time.pass_by(5)
        await scene.renewal.back()
        assert scene.counts(SCANNER) == (1, 1)

    scene.run(scenario)

"""Repair of the server's counts by difference: what is held stays, what nobody holds goes."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from tests.unit.leases.scene import FLEET, HERE, SCANNER, Scene

from prefect_slots.leases.reconcile import Repaired, is_suspicious, reconcile
from prefect_slots.leases.release import SETTLED_SECONDS
from prefect_slots.ledger.leases import LeaseState


async def repair(scene: Scene) -> tuple[Repaired, ...]:
    return await reconcile(scene.ledger, scene.gateway, answering_since=scene.time() - 1000)


def test_true_counts_are_left_alone(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.held(seats=1, scanner=1)
        scene.server.take([SCANNER], 1)
        assert not await is_suspicious(scene.ledger, scene.gateway)
        assert await repair(scene) == ()
        assert scene.counts(SCANNER) == (2, 1)
        assert not {"subtract", "add"} & set(scene.server.asked)

    scene.run(scenario)


def test_after_a_restart_what_nobody_holds_is_taken_off_by_difference(scene: Scene) -> None:
    async def scenario() -> None:
        kept = await scene.held(scanner=1)
        ended = await scene.held(seats=2, scanner=1)
        scene.server.restart()
        scene.leave(ended)
        await scene.releaser.drain(5)
        assert await is_suspicious(scene.ledger, scene.gateway)
        repaired = await repair(scene)
        assert {each.limit: each.change for each in repaired} == {SCANNER: -1, FLEET: -2, HERE: -2}
        assert scene.counts(SCANNER) == (1, 1)
        assert scene.counts(FLEET) == scene.counts(HERE) == (0, 0)
        assert (scene.row().state, scene.row().held) == (LeaseState.GHOST, kept.id)
        assert not await is_suspicious(scene.ledger, scene.gateway)

    scene.run(scenario)


def test_a_ghost_that_ends_is_taken_off_by_the_next_repair(scene: Scene) -> None:
    async def scenario() -> None:
        grant = await scene.held(scanner=2)
        scene.server.restart()
        await repair(scene)
        scene.leave(grant)
        assert scene.rows() == []
        assert [str(each) for each in await repair(scene)] == [
            f"{SCANNER}: 2 taken off, which the server counted for this machine and nobody holds"
        ]
        assert scene.counts(SCANNER) == (0, 0)

    scene.run(scenario)


def test_others_slots_are_never_touched(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.held(scanner=1)
        scene.server.take([SCANNER], 1)
        scene.server.restart()
        await repair(scene)
        assert scene.counts(SCANNER) == (2, 1)

    scene.run(scenario)


def test_what_somebody_took_off_by_hand_is_added_and_its_holder_told(scene: Scene) -> None:
    async def scenario() -> None:
        grant = await scene.held(scanner=2)
        scene.server.change(SCANNER, -1)
        assert await is_suspicious(scene.ledger, scene.gateway)
        assert await repair(scene) == (Repaired(limit=SCANNER, change=1),)
        assert scene.counts(SCANNER) == (2, 2)
        assert scene.column(grant, "lost") == SCANNER

    scene.run(scenario)


def test_a_lease_that_the_ledger_does_not_know_is_given_back(scene: Scene) -> None:
    async def scenario() -> None:
        names = (SCANNER, scene.gateway.mirror(SCANNER))
        scene.server.take(names, 1, holder=uuid4())
        assert await repair(scene) == ()
        assert scene.counts(SCANNER) == (0, 0)

    scene.run(scenario)


def test_limits_with_something_under_way_wait_for_the_next_time(scene: Scene) -> None:
    async def scenario() -> None:
        scene.server.lose_answer_to("occupy")
        grant = scene.grant(scanner=1)
        assert await scene.occupy(grant) is not None
        scene.server.change(FLEET, 1)
        scene.server.change(scene.gateway.mirror(FLEET), 1)
        assert await repair(scene) == (Repaired(limit=FLEET, change=-1),)
        assert scene.counts(SCANNER) == (1, 1)
        assert scene.states == [LeaseState.INTENT]

    scene.run(scenario)


def test_a_repair_whose_answer_is_lost_is_not_repeated_before_it_has_settled(scene: Scene) -> None:
    async def scenario() -> None:
        for name in (SCANNER, scene.gateway.mirror(SCANNER)):
            scene.server.change(name, 2)
        scene.server.lose_answer_to("subtract")
        assert await repair(scene) == ()
        assert scene.states == [LeaseState.REPAIR]
        assert await repair(scene) == ()
        assert scene.server.asked.count("subtract") == 1
        scene.time.pass_by(SETTLED_SECONDS + 1)
        await repair(scene)
        assert scene.server.asked.count("subtract") == 1
        assert scene.counts(SCANNER) == (0, 0)
        assert scene.rows() == []

    scene.run(scenario)


def test_nothing_is_taken_while_a_count_is_repaired(scene: Scene) -> None:
    async def scenario() -> None:
        for name in (SCANNER, scene.gateway.mirror(SCANNER)):
            scene.server.change(name, 1)
        repairing = asyncio.create_task(repair(scene))
        while "holders" not in scene.server.asked:
            await asyncio.sleep(0)
        assert await scene.occupy(scene.grant(scanner=1)) is None
        assert repairing.done()
        assert scene.counts(SCANNER) == (1, 1)

    scene.run(scenario)

"""A process at its server: a grant is occupied, steps aside, or goes on without, as the server answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
from tests.support.fake_gateway import FakeServer, SilentAnnouncer
from tests.unit.leases.scene import FLEET, SCANNER, Scene

from prefect_slots.errors import ServerUnreachable
from prefect_slots.leases.session import MAX_FAIR_RETRIES, ServerSession
from prefect_slots.ledger import leases, registry
from prefect_slots.ledger.transaction import TicketState
from prefect_slots.limits import events
from prefect_slots.model.book import Grant
from prefect_slots.settings import Settings


class Deaf:
    """Hears of no releases."""

    def __init__(self, *_: object) -> None:
        pass

    async def run(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "Announcer", lambda _: SilentAnnouncer())
    monkeypatch.setattr(events, "Releases", Deaf)


@asynccontextmanager
async def at_server(
    scene: Scene, when_away: Literal["continue", "wait", "fail"] = "wait"
) -> AsyncGenerator[ServerSession]:
    made = ServerSession(scene.ledger, scene.gateway, Settings(when_server_is_away=when_away), FakeServer.url)
    try:
        yield made
    finally:
        await made.drain()
        await made.close()


async def occupied(scene: Scene, made: ServerSession, grant: Grant, until: float | None = None) -> bool:
    there = scene.ledger.read(lambda tx: leases.of_grant(tx, grant.id))
    return await made.occupy(grant, scene.registered, there, until)


def claim(scene: Scene) -> None:
    scene.ledger.transact(lambda tx: registry.note_claim(tx, FakeServer.url, "sqlite"))


def test_a_grant_is_occupied_and_given_back_at_the_end(scene: Scene) -> None:
    async def scenario() -> None:
        async with at_server(scene) as made:
            grant = scene.grant(scanner=1, seats=1)
            assert await occupied(scene, made, grant)
            assert scene.counts(SCANNER) == scene.counts(FLEET) == (1, 1)
            scene.ledger.transact(lambda tx: tx.leave(grant.id))
        assert scene.counts(SCANNER) == scene.counts(FLEET) == (0, 0)

    scene.run(scenario)


def test_a_refusal_gives_back_leases_and_cells_and_the_ticket_steps_aside(scene: Scene) -> None:
    async def scenario() -> None:
        by_hand = scene.server.take([FLEET], 2)
        async with at_server(scene) as made:
            grant = scene.grant(scanner=1, seats=1)
            assert not await occupied(scene, made, grant)
            assert scene.ledger.read(lambda tx: tx.state(grant.id)) is TicketState.BLOCKED
            await made.drain()
            assert scene.counts(SCANNER) == (0, 0)
            assert scene.ledger.read(lambda tx: tx.book().grants) == ()
            scene.server.give_back(by_hand)

    scene.run(scenario)


def test_a_limit_of_its_own_that_others_use_is_noted_and_the_ticket_keeps_its_place(scene: Scene) -> None:
    async def scenario() -> None:
        async with at_server(scene) as made:
            await asyncio.sleep(0.5)  # the leader has looked once, and finds nothing to do
            scene.server.take([SCANNER], 2)
            grant = scene.grant(scanner=1)
            assert not await occupied(scene, made, grant)
            assert scene.ledger.read(lambda tx: tx.state(grant.id)) is TicketState.WAITING
            assert scene.ledger.read(lambda tx: tx.all("SELECT foreign_use FROM cell WHERE resource='scanner'")) == [
                (2,)
            ]

    scene.run(scenario)


@pytest.mark.parametrize("when_away", ["continue", "wait", "fail"])
def test_a_server_that_is_away(scene: Scene, when_away: Literal["continue", "wait", "fail"]) -> None:
    async def scenario() -> None:
        claim(scene)
        async with at_server(scene, when_away) as made:
            scene.server.is_away = True
            grant = scene.grant(scanner=1)
            if when_away == "fail":
                with pytest.raises(ServerUnreachable):
                    await occupied(scene, made, grant)
            else:
                goes_on = await occupied(scene, made, grant)
                assert goes_on is (when_away == "continue")
                state = TicketState.HELD if goes_on else TicketState.BLOCKED
                assert scene.ledger.read(lambda tx: tx.state(grant.id)) is state
            scene.server.is_away = False

    scene.run(scenario)


def test_a_machine_that_never_registered_does_not_go_on_without(scene: Scene) -> None:
    async def scenario() -> None:
        async with at_server(scene, "continue") as made:
            scene.server.is_away = True
            with pytest.raises(ServerUnreachable):
                await occupied(scene, made, scene.grant(scanner=1))
            scene.server.is_away = False

    scene.run(scenario)


def test_who_was_sent_back_often_enough_keeps_its_cells_and_waits(scene: Scene) -> None:
    async def scenario() -> None:
        by_hand = scene.server.take([FLEET], 2)
        async with at_server(scene) as made:
            grant = scene.grant(scanner=1, seats=1)
            scene.ledger.transact(lambda tx: tx.run("UPDATE held SET refusals=?", MAX_FAIR_RETRIES))
            assert not await occupied(scene, made, grant, until=0.0)  # its time is over
            grant = scene.grant(scanner=1, seats=1)
            scene.ledger.transact(lambda tx: tx.run("UPDATE held SET refusals=?", MAX_FAIR_RETRIES))
            scene.server.give_back(by_hand)
            assert await occupied(scene, made, grant)

    scene.run(scenario)


def test_the_leader_renews_while_nobody_asks(scene: Scene) -> None:

    async def scenario() -> None:
        async with at_server(scene) as made:
            grant = scene.grant(scanner=1)
            assert await occupied(scene, made, grant)
            await asyncio.sleep(1000)
            assert scene.counts(SCANNER) == (1, 1)
            assert scene.server.asked.count("renew") >= 5
            scene.ledger.transact(lambda tx: tx.leave(grant.id))

    scene.run(scenario)

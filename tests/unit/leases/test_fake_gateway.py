"""The fake gateway passes the battery that the real one passes, so that tests over it say something of a server."""

from __future__ import annotations

from uuid import UUID

import pytest
from tests.support.fake_gateway import FakeGateway, FakeServer
from tests.support.gateway_battery import GatewayBattery, Play, Scenario, World
from tests.support.virtual_time import VirtualTime


class FakeWorld(World):
    def __init__(self, server: FakeServer) -> None:
        super().__init__(FakeGateway(server, "ledger"), "m")
        self.server = server

    async def create(self, name: str, limit: int) -> None:
        self.server.create(name, limit)

    async def take_by_hand(self, name: str, slots: int) -> UUID:
        return self.server.take([name], slots)

    def lose_answer_to_occupy(self) -> None:
        self.server.lose_answer_to("occupy")

    def lose_answer_to_release(self) -> None:
        self.server.lose_answer_to("release")


class TestFakeGateway(GatewayBattery):
    @pytest.fixture
    def play(self) -> Play:
        def play(scenario: Scenario) -> None:
            time = VirtualTime()
            world = FakeWorld(FakeServer(time))

            async def all_of_it() -> None:
                await world.prepare()
                await scenario(world)
                await world.gateway.close()

            time.run(all_of_it())

        return play

    @pytest.fixture
    def play_lossy(self, play: Play) -> Play:
        return play

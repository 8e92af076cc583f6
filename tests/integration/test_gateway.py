"""Slots on a real Prefect server: what is occupied is counted, found and given back, whatever is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from tests.support.gateway_battery import LIFE, GatewayBattery, Play, Scenario, World
from tests.support.lossy_proxy import LossyProxy, lossy_proxy
from tests.support.polling import until_async
from tests.support.prefect_server import PrefectServer
from tests.support.server_views import check_server

from prefect_slots.errors import ServerRefused
from prefect_slots.limits.gateway import Gateway

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("server")]

_numbers = count()


class PrefectWorld(World):
    """One test's own limits on the shared server."""

    def __init__(self, gateway: Gateway, name: str, client: PrefectClient, proxy: LossyProxy | None) -> None:
        super().__init__(gateway, name)
        self.client = client
        self.proxy = proxy

    async def create(self, name: str, limit: int) -> None:
        await self.client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=limit))

    async def take_by_hand(self, name: str, slots: int) -> UUID:
        answer = await self.client.increment_concurrency_slots_with_lease([name], slots, "concurrency", LIFE)
        return UUID(answer.json()["lease_id"])

    def lose_answer_to_occupy(self) -> None:
        assert self.proxy is not None
        self.proxy.lose_answer_to("increment-with-lease")

    def lose_answer_to_release(self) -> None:
        assert self.proxy is not None
        self.proxy.lose_answer_to("decrement-with-lease")


@asynccontextmanager
async def world(server: PrefectServer, proxy: LossyProxy | None = None) -> AsyncGenerator[PrefectWorld]:
    number = next(_numbers)
    gateway = await Gateway.open(f"ledger-{number}", url=proxy.url if proxy else server.url)
    async with server.client() as client:
        made = PrefectWorld(gateway, f"m{number}", client, proxy)
        await made.prepare()
        yield made
    await gateway.close()


class TestPrefectGateway(GatewayBattery):
    @pytest.fixture
    def play(self, prefect_server: PrefectServer) -> Play:
        def play(scenario: Scenario) -> None:
            async def all_of_it() -> None:
                async with world(prefect_server) as made:
                    await scenario(made)

            asyncio.run(all_of_it())

        return play

    @pytest.fixture
    def play_lossy(self, prefect_server: PrefectServer) -> Play:
        def play(scenario: Scenario) -> None:
            async def all_of_it() -> None:
                async with lossy_proxy(prefect_server.url) as proxy, world(prefect_server, proxy) as made:
                    await scenario(made)
                    assert proxy.lost == 1

            asyncio.run(all_of_it())

        return play


def test_a_limit_of_zero_cannot_be_released_so_none_is_ever_registered(prefect_server: PrefectServer) -> None:
    """If this fails, Prefect has mended it, and `specs` may register a capacity of zero."""

    async def scenario() -> None:
        async with world(prefect_server) as w:
            lease = await w.gateway.occupy((w.a,), 1, uuid4(), LIFE)
            await w.client.update_global_concurrency_limit(w.a, GlobalConcurrencyLimitUpdate(limit=0))
            with pytest.raises(ServerRefused):
                await w.gateway.release(lease.id)
            await w.client.update_global_concurrency_limit(w.a, GlobalConcurrencyLimitUpdate(limit=4))
            await w.gateway.release(lease.id)
            assert await w.counts(w.a) == (0, 0)

    asyncio.run(scenario())


def test_the_server_says_what_it_is(prefect_server: PrefectServer) -> None:
    info = asyncio.run(check_server(prefect_server.url))
    assert info.url == prefect_server.url
    assert info.version.startswith("3.")
    assert info.lease_storage == "prefect.server.concurrency.lease_storage.memory"
    assert info.database == "sqlite"


@pytest.mark.slow
def test_a_lease_that_nobody_renews_is_taken_back_by_the_server(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with world(prefect_server) as w:
            await w.gateway.occupy((w.a,), 2, uuid4(), LIFE)

            def given_back() -> Callable[[], Awaitable[bool]]:
                async def empty() -> bool:
                    return await w.counts(w.a) == (0, 0)

                return empty

            await until_async(given_back(), 100, what="the lapsed lease's return")

    asyncio.run(scenario())

"""A server that asks who we are, guards against forged requests and forgets its leases when it is started again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings
from tests.support.prefect_server import PrefectServer
from tests.support.server_views import check_server

from prefect_slots.errors import ServerRefused, ServerUnreachable
from prefect_slots.limits.gateway import Gateway
from prefect_slots.limits.registration import register
from prefect_slots.model.registered import Stock
from prefect_slots.model.resource import Scope

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.xdist_group("server")]


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    guards = {"PREFECT_SERVER_API_AUTH_STRING": "us:secret", "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true"}
    server = PrefectServer(tmp_path_factory.mktemp("guarded-server"), guards)
    server.start()
    yield server
    server.stop()


def test_a_stranger_is_refused_with_the_remedy(guarded_server: PrefectServer) -> None:
    async def scenario() -> None:
        with pytest.raises(ServerRefused, match="PREFECT_API_AUTH_STRING") as caught:
            await check_server(guarded_server.url)
        assert caught.value.status == 401
        gateway = await Gateway.open("L", url=guarded_server.url)
        with pytest.raises(ServerRefused):
            await gateway.occupy(("a",), 1, uuid4(), 60.0)
        await gateway.close()

    asyncio.run(scenario())


def test_what_was_held_before_a_restart_is_repaired_by_difference(guarded_server: PrefectServer) -> None:
    async def scenario() -> None:
        with temporary_settings({PREFECT_API_AUTH_STRING: "us:secret"}):
            gateway = await Gateway.open("L", url=guarded_server.url)
        stocks = [Stock(resource="cpus", scope=Scope.WORKER, cells=((0, 8),))]
        await register(gateway.server, machine="m", ledger_id="L", host="h", stocks=stocks, cards={})
        lease = await gateway.occupy(("cpus:m",), 3, uuid4(), 60.0)

        await asyncio.to_thread(guarded_server.stop)
        with pytest.raises(ServerUnreachable):
            await gateway.renew(lease.id, 60.0)
        await asyncio.to_thread(guarded_server.start)

        assert await gateway.renew(lease.id, 60.0) is False
        await gateway.release(lease.id)  # answered as if it had worked
        assert await gateway.holders("cpus:m") == ()
        mirror = gateway.mirror("cpus:m")
        for name in ("cpus:m", mirror):
            found = await gateway.read(name)
            assert found is not None
            assert found.active_slots == 3
        held = await gateway.occupy(("cpus:m",), 2, uuid4(), 60.0)
        await gateway.subtract("cpus:m", 3)
        for name in ("cpus:m", mirror):
            found = await gateway.read(name)
            assert found is not None
            assert found.active_slots == 2
        await gateway.release(held.id)
        await gateway.close()

    asyncio.run(scenario())

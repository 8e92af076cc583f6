"""A Prefect server on PostgreSQL counts the same, and is known for what it is when it says 503."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import pytest
from tests.support.postgres import Postgres, has_postgres
from tests.support.prefect_server import PrefectServer
from tests.support.server_views import check_server

from prefect_slots.limits.gateway import Gateway
from prefect_slots.limits.outcome import Busy
from prefect_slots.limits.registration import register
from prefect_slots.model.registered import Stock
from prefect_slots.model.resource import Scope

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.postgres,
    pytest.mark.xdist_group("server"),
    pytest.mark.skipif(not has_postgres(), reason="PostgreSQL's programs are not installed"),
]


@pytest.fixture(scope="module")
def server_on_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    postgres = Postgres()
    postgres.start()
    home = tmp_path_factory.mktemp("server-on-postgres")
    server = PrefectServer(home, {"PREFECT_SERVER_DATABASE_CONNECTION_URL": postgres.url})
    server.start()
    yield server
    server.stop()
    postgres.stop()


def test_the_database_is_recognised(server_on_postgres: PrefectServer) -> None:
    assert asyncio.run(check_server(server_on_postgres.url)).database == "postgresql"


def test_slots_are_occupied_found_and_given_back(server_on_postgres: PrefectServer) -> None:
    async def scenario() -> None:
        gateway = await Gateway.open("L", url=server_on_postgres.url)
        stocks = [Stock(resource="gpu_mem", scope=Scope.WORKER, cells=((0, 2**30),))]
        await register(gateway.server, machine="m", ledger_id="L", host="h", stocks=stocks, cards={0: "GPU-1"})
        holder = uuid4()
        await gateway.occupy(("gpu-mem:m", "gpu-mem:m:0"), 2**30 - 10, holder, 60.0)
        with pytest.raises(Busy):
            await gateway.occupy(("gpu-mem:m:0",), 11, uuid4(), 60.0)
        assert await gateway.find("gpu-mem:m:0", holder)
        await gateway.release_by_holder(("gpu-mem:m",), holder)
        found = await gateway.read("gpu-mem:m:0")
        assert found is not None
        assert found.active_slots == 0
        await gateway.close()

    asyncio.run(scenario())

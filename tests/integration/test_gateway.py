"""Slots on a real Prefect server: what is occupied is counted, found and given back, whatever is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from uuid import uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from tests.support.lossy_proxy import lossy_proxy
from tests.support.polling import until_async
from tests.support.prefect_server import PrefectServer

from prefect_slots.errors import LimitMissing, ServerRefused
from prefect_slots.limits.client import check_server
from prefect_slots.limits.gateway import Gateway
from prefect_slots.limits.outcome import Busy, OccupiedLease, TooLarge, UnknownOutcome

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("server")]

LIFE = 60.0
_numbers = count()


@dataclass
class World:
    """One test's own limits on the shared server, and its gateway."""

    gateway: Gateway
    client: PrefectClient
    ledger: str
    a: str
    b: str

    async def create(self, name: str, limit: int, *, mirror: bool = True) -> None:
        await self.client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=limit))
        if mirror:
            await self.create(self.gateway.mirror(name), limit, mirror=False)

    async def counts(self, name: str) -> tuple[int, int]:
        """Return the slots counted on a limit and on its mirror."""
        limit, mirror = await self.gateway.read(name), await self.gateway.read(self.gateway.mirror(name))
        assert limit is not None
        assert mirror is not None
        return limit.active_slots, mirror.active_slots


@asynccontextmanager
async def world(server: PrefectServer, url: str | None = None) -> AsyncGenerator[World]:
    number = next(_numbers)
    ledger = f"ledger-{number}"
    gateway = await Gateway.open(ledger, url=url or server.url)
    async with server.client() as client:
        made = World(gateway=gateway, client=client, ledger=ledger, a=f"a:m{number}", b=f"b:m{number}")
        await made.create(made.a, 4)
        await made.create(made.b, 10)
        yield made
    await gateway.close()


def test_what_is_occupied_is_counted_on_limits_and_mirrors_until_released(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with world(prefect_server) as w:
            lease = await w.gateway.occupy((w.a, w.b), 3, uuid4(), LIFE)
            assert LIFE - 20 < lease.seconds < LIFE
            assert await w.counts(w.a) == await w.counts(w.b) == (3, 3)
            await w.gateway.release(lease.id)
            assert await w.counts(w.a) == await w.counts(w.b) == (0, 0)

    asyncio.run(scenario())


def test_names_that_partly_do_not_exist_leave_nothing_behind(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with world(prefect_server) as w:
            with pytest.raises(LimitMissing) as caught:
                await w.gateway.occupy((w.a, "c:nowhere"), 1, uuid4(), LIFE)
            assert set(caught.value.names) == {"c:nowhere", w.gateway.mirror("c:nowhere")}
            assert await w.counts(w.a) == (0, 0)

            lone = f"lone:{w.ledger}"
            await w.create(lone, 4, mirror=False)
            with pytest.raises(LimitMissing) as caught:
                await w.gateway.occupy((lone,), 1, uuid4(), LIFE)
            assert caught.value.names == (w.gateway.mirror(lone),)
            found = await w.gateway.read(lone)
            assert found is not None
            assert found.active_slots == 0

    asyncio.run(scenario())


def test_busy_takes_nothing_of_any_name(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with world(prefect_server) as w:
            lease = await w.gateway.occupy((w.a,), 3, uuid4(), LIFE)
            with pytest.raises(Busy) as caught:
                await w.gateway.occupy((w.b, w.a), 2, uuid4(), LIFE)
            assert caught.value.retry_after is not None
            assert caught.value.retry_after >= 0
            assert await w.counts(w.a) == (3, 3)
            assert await w.counts(w.b) == (0, 0)
            await w.gateway.release(lease.id)

    asyncio.run(scenario())


def test_more_than_the_limit_is_too_large(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with world(prefect_server) as w:
            with pytest.raises(TooLarge):
                await w.gateway.occupy((w.a,), 5, uuid4(), LIFE)
            with pytest.raises(ServerRefused, match="greater than or equal to 60"):
                await w.gateway.occupy((w.a,), 1, uuid4(), 59.0)
            assert await w.counts(w.a) == (0, 0)

    asyncio.run(scenario())


def test_a_lease_is_renewed_while_the_server_lists_it(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with world(prefect_server) as w:
            lease = await w.gateway.occupy((w.a,), 1, uuid4(), LIFE)
            assert await w.gateway.renew(lease.id, LIFE) is True
            await w.gateway.release(lease.id)
            assert await w.gateway.renew(lease.id, LIFE) is False
            assert await w.gateway.renew(uuid4(), LIFE) is False

    asyncio.run(scenario())


def test_a_holder_is_found_while_it_holds(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with world(prefect_server) as w:
            one, two = uuid4(), uuid4()
            lease = await w.gateway.occupy((w.a, w.b), 1, one, LIFE)
            other = await w.gateway.occupy((w.b,), 2, two, LIFE)
            assert await w.gateway.find(w.a, one)
            assert not await w.gateway.find(w.a, two)
            assert set(await w.gateway.holders(w.b)) == {one, two}
            await w.gateway.release(lease.id)
            assert not await w.gateway.find(w.a, one)
            assert await w.gateway.holders(w.b) == (two,)
            await w.gateway.release(other.id)
            with pytest.raises(LimitMissing):
                await w.gateway.find("c:nowhere", one)

    asyncio.run(scenario())


def test_a_holder_s_release_gives_back_its_whole_lease_and_nobody_else_s(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with world(prefect_server) as w:
            mine, other = uuid4(), uuid4()
            lease = await w.gateway.occupy((w.a, w.b), 2, mine, LIFE)
            others = await w.gateway.occupy((w.a,), 1, other, LIFE)
            await w.gateway.release_by_holder((w.a,), mine)
            assert await w.counts(w.a) == (1, 1)
            assert await w.counts(w.b) == (0, 0)
            assert await w.gateway.renew(lease.id, LIFE) is False
            await w.gateway.release_by_holder((w.a, w.b), mine)
            assert await w.counts(w.a) == (1, 1)
            await w.gateway.release(others.id)

    asyncio.run(scenario())


def test_a_hand_made_occupation_is_seen_on_the_limit_and_not_on_the_mirror(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with world(prefect_server) as w:
            answer = await w.client.increment_concurrency_slots_with_lease([w.a], 3, "concurrency", LIFE)
            assert await w.counts(w.a) == (3, 0)
            with pytest.raises(Busy):
                await w.gateway.occupy((w.a,), 2, uuid4(), LIFE)
            await w.gateway.release(answer.json()["lease_id"])

    asyncio.run(scenario())


def test_a_lost_answer_is_one_increment_that_is_found_and_given_back(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with lossy_proxy(prefect_server.url) as proxy, world(prefect_server, proxy.url) as w:
            holder = uuid4()
            proxy.lose_answer_to("increment-with-lease")
            with pytest.raises(UnknownOutcome):
                await w.gateway.occupy((w.a, w.b), 2, holder, LIFE)
            assert proxy.lost == 1
            assert await w.counts(w.a) == await w.counts(w.b) == (2, 2)
            assert await w.gateway.find(w.a, holder)
            await w.gateway.release_by_holder((w.a, w.b), holder)
            assert await w.counts(w.a) == await w.counts(w.b) == (0, 0)

    asyncio.run(scenario())


def test_a_release_whose_answer_is_lost_is_sent_once(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with lossy_proxy(prefect_server.url) as proxy, world(prefect_server, proxy.url) as w:
            kept, holder = await w.gateway.occupy((w.a,), 2, uuid4(), LIFE), uuid4()
            lease = await w.gateway.occupy((w.a,), 1, holder, LIFE)
            proxy.lose_answer_to("decrement-with-lease")
            with pytest.raises(UnknownOutcome):
                await w.gateway.release(lease.id)
            assert await w.counts(w.a) == (2, 2)
            assert not await w.gateway.find(w.a, holder)
            await w.gateway.release(kept.id)

    asyncio.run(scenario())


def test_a_cancelled_call_still_tells_its_lease(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with world(prefect_server) as w:
            told: asyncio.Queue[OccupiedLease | BaseException] = asyncio.Queue()
            call = asyncio.create_task(w.gateway.occupy((w.a,), 2, uuid4(), LIFE, late=told.put_nowait))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            lease = await asyncio.wait_for(told.get(), 20)
            assert isinstance(lease, OccupiedLease)
            assert await w.counts(w.a) == (2, 2)
            await w.gateway.release(lease.id)
            assert await w.counts(w.a) == (0, 0)

    asyncio.run(scenario())


def test_many_at_once_never_exceed_the_limit(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with world(prefect_server) as w:

            async def one() -> OccupiedLease | None:
                try:
                    return await w.gateway.occupy((w.a, w.b), 1, uuid4(), LIFE)
                except Busy:
                    return None

            leases = [lease for lease in await asyncio.gather(*(one() for _ in range(12))) if lease]
            assert len(leases) == 4
            assert await w.counts(w.a) == (4, 4)
            await asyncio.gather(*(w.gateway.release(lease.id) for lease in leases))
            assert await w.counts(w.a) == await w.counts(w.b) == (0, 0)

    asyncio.run(scenario())


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

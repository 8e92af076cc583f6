"""One battery of tests for every gateway: the one to a real Prefect server, and the fake that stands for it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID, uuid4

import pytest

from prefect_slots.errors import LimitMissing, ServerRefused
from prefect_slots.limits.gateway import Gateway
from prefect_slots.limits.outcome import Busy, OccupiedLease, TooLarge, UnknownOutcome

LIFE = 60.0


class World(ABC):
    """One test's own limits on a server, and its gateway.

    Attributes:
        a: A limit of 4 slots with a mirror.
        b: A limit of 10 slots with a mirror.
    """

    def __init__(self, gateway: Gateway, name: str) -> None:
        self.gateway = gateway
        self.name = name
        self.a, self.b = f"a:{name}", f"b:{name}"

    @abstractmethod
    async def create(self, name: str, limit: int) -> None:
        """Make a limit."""

    @abstractmethod
    async def take_by_hand(self, name: str, slots: int) -> UUID:
        """Occupy a limit as other programs do, without its mirror, and return the lease."""

    @abstractmethod
    def lose_answer_to_occupy(self) -> None:
        """Lose the answer to the next increment, once it is applied."""

    @abstractmethod
    def lose_answer_to_release(self) -> None:
        """Lose the answer to the next release of a lease, once it is applied."""

    async def prepare(self) -> None:
        """Make the two limits and their mirrors."""
        for name, limit in ((self.a, 4), (self.b, 10)):
            await self.create(name, limit)
            await self.create(self.gateway.mirror(name), limit)

    async def counts(self, name: str) -> tuple[int, int]:
        """Return the slots counted on a limit and on its mirror."""
        limit, mirror = await self.gateway.read(name), await self.gateway.read(self.gateway.mirror(name))
        assert limit is not None
        assert mirror is not None
        return limit.active_slots, mirror.active_slots


Scenario = Callable[[World], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]
"""Runs a scenario in a world of its own."""


class GatewayBattery:
    """Tests of a gateway; a subclass has the fixtures `play` and `play_lossy`, whose world can lose answers."""

    def test_what_is_occupied_is_counted_on_limits_and_mirrors_until_released(self, play: Play) -> None:
        async def scenario(w: World) -> None:
            lease = await w.gateway.occupy((w.a, w.b), 3, uuid4(), LIFE)
            assert LIFE - 20 < lease.seconds < LIFE
            assert await w.counts(w.a) == await w.counts(w.b) == (3, 3)
            await w.gateway.release(lease.id)
            assert await w.counts(w.a) == await w.counts(w.b) == (0, 0)

        play(scenario)

    def test_names_that_partly_do_not_exist_leave_nothing_behind(self, play: Play) -> None:
        async def scenario(w: World) -> None:
            with pytest.raises(LimitMissing) as caught:
                await w.gateway.occupy((w.a, "c:nowhere"), 1, uuid4(), LIFE)
            assert set(caught.value.names) == {"c:nowhere", w.gateway.mirror("c:nowhere")}
            assert await w.counts(w.a) == (0, 0)

            lone = f"lone:{w.name}"
            await w.create(lone, 4)
            with pytest.raises(LimitMissing) as caught:
                await w.gateway.occupy((lone,), 1, uuid4(), LIFE)
            assert caught.value.names == (w.gateway.mirror(lone),)
            found = await w.gateway.read(lone)
            assert found is not None
            assert found.active_slots == 0

        play(scenario)

    def test_busy_takes_nothing_of_any_name(self, play: Play) -> None:
        async def scenario(w: World) -> None:
            lease = await w.gateway.occupy((w.a,), 3, uuid4(), LIFE)
            with pytest.raises(Busy) as caught:
                await w.gateway.occupy((w.b, w.a), 2, uuid4(), LIFE)
            assert caught.value.retry_after is not None
            assert caught.value.retry_after >= 0
            assert await w.counts(w.a) == (3, 3)
            assert await w.counts(w.b) == (0, 0)
            await w.gateway.release(lease.id)

        play(scenario)

    def test_more_than_the_limit_is_too_large(self, play: Play) -> None:
        async def scenario(w: World) -> None:
            with pytest.raises(TooLarge):
                await w.gateway.occupy((w.a,), 5, uuid4(), LIFE)
            with pytest.raises(ServerRefused, match="greater than or equal to 60"):
                await w.gateway.occupy((w.a,), 1, uuid4(), 59.0)
            assert await w.counts(w.a) == (0, 0)

        play(scenario)

    def test_a_lease_is_renewed_while_the_server_lists_it(self, play: Play) -> None:
        async def scenario(w: World) -> None:
            lease = await w.gateway.occupy((w.a,), 1, uuid4(), LIFE)
            assert await w.gateway.renew(lease.id, LIFE) is True
            await w.gateway.release(lease.id)
            assert await w.gateway.renew(lease.id, LIFE) is False
            assert await w.gateway.renew(uuid4(), LIFE) is False

        play(scenario)

    def test_a_holder_is_found_while_it_holds(self, play: Play) -> None:
        async def scenario(w: World) -> None:
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

        play(scenario)

    def test_a_holder_s_release_gives_back_its_whole_lease_and_nobody_else_s(self, play: Play) -> None:
        async def scenario(w: World) -> None:
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

        play(scenario)

    def test_a_hand_made_occupation_is_seen_on_the_limit_and_not_on_the_mirror(self, play: Play) -> None:
        async def scenario(w: World) -> None:
            lease = await w.take_by_hand(w.a, 3)
            assert await w.counts(w.a) == (3, 0)
            with pytest.raises(Busy):
                await w.gateway.occupy((w.a,), 2, uuid4(), LIFE)
            await w.gateway.release(lease)
            assert await w.counts(w.a) == (0, 0)

        play(scenario)

    def test_a_difference_is_taken_off_limit_and_mirror_together_and_added_to_one(self, play: Play) -> None:
        async def scenario(w: World) -> None:
            lease = await w.gateway.occupy((w.a,), 3, uuid4(), LIFE)
            await w.gateway.subtract(w.a, 2)
            assert await w.counts(w.a) == (1, 1)
            await w.gateway.add(w.a, 2)
            assert await w.counts(w.a) == (3, 1)
            await w.gateway.add(w.a, 2)  # no room: nothing is added, and nobody is told
            assert await w.counts(w.a) == (3, 1)
            await w.gateway.add(w.gateway.mirror(w.a), 2)
            await w.gateway.release(lease.id)
            assert await w.counts(w.a) == (0, 0)

        play(scenario)

    def test_a_lost_answer_is_one_increment_that_is_found_and_given_back(self, play_lossy: Play) -> None:
        async def scenario(w: World) -> None:
            holder = uuid4()
            w.lose_answer_to_occupy()
            with pytest.raises(UnknownOutcome):
                await w.gateway.occupy((w.a, w.b), 2, holder, LIFE)
            assert await w.counts(w.a) == await w.counts(w.b) == (2, 2)
            assert await w.gateway.find(w.a, holder)
            await w.gateway.release_by_holder((w.a, w.b), holder)
            assert await w.counts(w.a) == await w.counts(w.b) == (0, 0)

        play_lossy(scenario)

    def test_a_release_whose_answer_is_lost_is_sent_once(self, play_lossy: Play) -> None:
        async def scenario(w: World) -> None:
            kept, holder = await w.gateway.occupy((w.a,), 2, uuid4(), LIFE), uuid4()
            lease = await w.gateway.occupy((w.a,), 1, holder, LIFE)
            w.lose_answer_to_release()
            with pytest.raises(UnknownOutcome):
                await w.gateway.release(lease.id)
            assert await w.counts(w.a) == (2, 2)
            assert not await w.gateway.find(w.a, holder)
            await w.gateway.release(kept.id)

        play_lossy(scenario)

    def test_a_cancelled_call_still_tells_its_lease(self, play: Play) -> None:
        async def scenario(w: World) -> None:
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

        play(scenario)

    def test_many_at_once_never_exceed_the_limit(self, play: Play) -> None:
        async def scenario(w: World) -> None:
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

        play(scenario)

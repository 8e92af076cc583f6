"""Leases are renewed in time, and their owner is told exactly what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_slots.errors import ServerUnreachable
from prefect_slots.limits.renewal import Renewal

LIFE = 60.0


@dataclass
class Log:
    """A keeper that writes down what it is told."""

    told: list[tuple[str, UUID]] = field(default_factory=list[tuple[str, UUID]])
    deadlines: dict[UUID, float] = field(default_factory=dict[UUID, float])

    def renewed(self, lease_id: UUID, deadline: float) -> None:
        self.told.append(("renewed", lease_id))
        self.deadlines[lease_id] = deadline

    def lost(self, lease_id: UUID) -> None:
        self.told.append(("lost", lease_id))

    def lapsed(self, lease_id: UUID) -> None:
        self.told.append(("lapsed", lease_id))

    def failed(self, lease_id: UUID, error: Exception) -> None:
        assert isinstance(error, ServerUnreachable)
        self.told.append(("failed", lease_id))


@dataclass
class Clock:
    """A clock that moves only when told."""

    time: float = 1000.0

    def __call__(self) -> float:
        return self.time


def renewal(renew: Callable[[UUID, float], Awaitable[bool]], clock: Clock, log: Log, chance: float = 0.5) -> Renewal:
    return Renewal(renew, log, lease_seconds=LIFE, now=clock, chance=lambda: chance)


async def granted(lease_id: UUID, seconds: float) -> bool:
    assert seconds == LIFE
    return True


async def gone(lease_id: UUID, seconds: float) -> bool:
    return False


async def unreachable(lease_id: UUID, seconds: float) -> bool:
    raise ServerUnreachable(url="http://x", cause="refused")


@given(st.floats(0, 1))
def test_a_lease_is_renewed_after_about_a_third_of_its_life(chance: float) -> None:
    async def scenario() -> None:
        clock, log = Clock(), Log()
        kept = renewal(granted, clock, log, chance)
        lease = uuid4()
        kept.keep(lease, clock() + LIFE)
        clock.time += LIFE * 0.29
        await kept.renew_due()
        assert log.told == []
        clock.time += LIFE * 0.08
        await kept.renew_due()
        assert log.told == [("renewed", lease)]
        assert kept.leases == {lease: clock() + LIFE} == log.deadlines

    asyncio.run(scenario())


def test_leases_of_one_moment_are_not_all_renewed_at_one_moment() -> None:
    async def scenario() -> None:
        clock, log = Clock(), Log()
        chances = iter([0.0, 1.0])
        kept = Renewal(granted, log, lease_seconds=LIFE, now=clock, chance=lambda: next(chances))
        early, late = uuid4(), uuid4()
        kept.keep(early, clock() + LIFE)
        kept.keep(late, clock() + LIFE)
        clock.time += LIFE * 0.31
        chances = iter([0.5])
        await kept.renew_due()
        assert log.told == [("renewed", early)]

    asyncio.run(scenario())


def test_a_lease_that_the_server_does_not_list_is_lost_once() -> None:
    async def scenario() -> None:
        clock, log = Clock(), Log()
        kept = renewal(gone, clock, log)
        lease = uuid4()
        kept.keep(lease, clock() + LIFE)
        for _ in range(3):
            clock.time += LIFE / 2
            await kept.renew_due()
        assert log.told == [("lost", lease)]
        assert kept.leases == {}

    asyncio.run(scenario())


def test_an_unreachable_server_is_asked_again_until_the_lease_has_lapsed() -> None:
    async def scenario() -> None:
        clock, log = Clock(), Log()
        kept = renewal(unreachable, clock, log)
        lease = uuid4()
        kept.keep(lease, clock() + LIFE)
        for _ in range(700):
            clock.time += 0.1
            await kept.renew_due()
        words = [word for word, _ in log.told]
        assert words[-1] == "lapsed"
        assert words.count("lapsed") == 1
        assert 10 <= words.count("failed") <= 20

    asyncio.run(scenario())


def test_a_lapsed_lease_is_not_renewed() -> None:
    async def scenario() -> None:
        clock, log = Clock(), Log()
        kept = renewal(granted, clock, log)
        lease = uuid4()
        kept.keep(lease, clock() + LIFE)
        clock.time += LIFE  # the machine was suspended
        await kept.renew_due()
        assert log.told == [("lapsed", lease)]

    asyncio.run(scenario())


def test_nobody_is_told_of_a_lease_forgotten_during_its_renewal() -> None:
    async def scenario() -> None:
        clock, log = Clock(), Log()
        lease = uuid4()

        async def forgotten_meanwhile(lease_id: UUID, seconds: float) -> bool:
            kept.forget(lease_id)
            return False

        kept = renewal(forgotten_meanwhile, clock, log)
        kept.keep(lease, clock() + LIFE)
        clock.time += LIFE / 2
        await kept.renew_due()
        assert log.told == []

    asyncio.run(scenario())


def test_one_lease_without_an_answer_does_not_hold_up_another() -> None:
    async def scenario() -> None:
        clock, log = Clock(), Log()
        stuck, other = uuid4(), uuid4()
        renewed = asyncio.Event()

        async def one_hangs(lease_id: UUID, seconds: float) -> bool:
            if lease_id == stuck:
                await asyncio.Event().wait()
            renewed.set()
            return True

        kept = renewal(one_hangs, clock, log)
        kept.keep(stuck, clock() + LIFE / 2)
        task = asyncio.create_task(kept.run())
        await asyncio.sleep(0)
        kept.keep(other, clock() + LIFE / 2)
        await asyncio.wait_for(renewed.wait(), 10)
        assert log.told == [("renewed", other)]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())

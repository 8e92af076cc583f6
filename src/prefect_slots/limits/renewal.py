"""Keeping leases alive: renews each at a third of its life, and says which were lost.

Runs as one task in the event loop of whoever starts it, on a clock that is handed in. Knows no Prefect.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from prefect_slots.errors import ServerRefused, ServerUnreachable
from prefect_slots.limits import jitter
from prefect_slots.limits.outcome import UnknownOutcome

_DUE_AFTER: Final = 1 / 3
_JITTER: Final = 0.1
_RETRY_AFTER: Final = 1 / 20
# A clock that counts time asleep may jump; the loop's own does not. So no wait is longer than this.
_LONGEST_WAIT_SECONDS: Final = 5.0
_SHORTEST_WAIT_SECONDS: Final = 0.05


class LeaseKeeper(Protocol):
    """Who owns the leases, and is told what becomes of them. Called from the loop; must not block."""

    def renewed(self, lease_id: UUID, deadline: float) -> None:
        """The lease now lives until `deadline` at least."""

    def lost(self, lease_id: UUID) -> None:
        """The server does not list the lease; it is no longer renewed."""

    def lapsed(self, lease_id: UUID) -> None:
        """The lease ran out before the server could be asked; it is no longer renewed, and not ours to release."""

    def failed(self, lease_id: UUID, error: Exception) -> None:
        """One attempt failed; another follows while the lease lives."""


@dataclass
class _Kept:
    deadline: float
    next_attempt: float


class Renewal:
    """The leases of one machine that this process keeps alive.

    Args:
        renew: Lets a lease live so many seconds from now; returns False if the server does not list it
            (`Gateway.renew`).
        keeper: Told what becomes of each lease.
        lease_seconds: Life to ask for.
        now: Seconds on the clock of the deadlines, which must count time asleep (`CLOCK_BOOTTIME`).
        chance: Returns a number from 0 to 1, for jitter.
    """

    def __init__(
        self,
        renew: Callable[[UUID, float], Awaitable[bool]],
        keeper: LeaseKeeper,
        *,
        lease_seconds: float,
        now: Callable[[], float],
        chance: Callable[[], float] = lambda: jitter.between(0, 1),
    ) -> None:
        self._renew = renew
        self._keeper = keeper
        self._lease_seconds = lease_seconds
        self._now = now
        self._chance = chance
        self._kept: dict[UUID, _Kept] = {}
        self._changed = asyncio.Event()

    @property
    def leases(self) -> dict[UUID, float]:
        """The leases kept now, with their deadlines."""
        return {lease_id: kept.deadline for lease_id, kept in self._kept.items()}

    def keep(self, lease_id: UUID, deadline: float) -> None:
        """Keep a lease alive that runs out at `deadline`; for one already kept, correct its deadline."""
        self._kept[lease_id] = _Kept(deadline, self._due(deadline))
        self._changed.set()

    def forget(self, lease_id: UUID) -> None:
        """Stop keeping a lease. A renewal on its way is not taken back, but nobody is told of it."""
        self._kept.pop(lease_id, None)

    async def run(self) -> None:
        """Renew whatever is due, each in a task of its own so that none waits for another's answer, until cancelled."""
        async with asyncio.TaskGroup() as attempts:
            while True:
                for lease_id in self._take_due():
                    attempts.create_task(self._renew_one(lease_id))
                self._changed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), self._seconds_to_next())

    async def renew_due(self) -> None:
        """Renew what is due now, and return when all of it is answered."""
        await asyncio.gather(*(self._renew_one(lease_id) for lease_id in self._take_due()))

    def _take_due(self) -> list[UUID]:
        now = self._now()
        due = [lease_id for lease_id, kept in self._kept.items() if kept.next_attempt <= now]
        for lease_id in due:
            self._kept[lease_id].next_attempt = math.inf
        return due

    def _seconds_to_next(self) -> float:
        first = min((kept.next_attempt for kept in self._kept.values()), default=math.inf)
        return min(max(first - self._now(), _SHORTEST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS)

    async def _renew_one(self, lease_id: UUID) -> None:
        kept = self._kept.get(lease_id)
        if kept is None:
            return
        asked = self._now()
        if asked >= kept.deadline:
            # The server's own service takes a lapsed lease back; to renew it then would race with that.
            del self._kept[lease_id]
            self._keeper.lapsed(lease_id)
            return
        try:
            listed = await self._renew(lease_id, self._lease_seconds)
        except (ServerUnreachable, ServerRefused, UnknownOutcome) as error:
            if self._kept.get(lease_id) is kept:
                kept.next_attempt = min(self._now() + self._lease_seconds * _RETRY_AFTER, kept.deadline)
                self._changed.set()
                self._keeper.failed(lease_id, error)
            return
        if self._kept.get(lease_id) is not kept:
            return
        if listed:
            kept.deadline = asked + self._lease_seconds
            kept.next_attempt = self._due(kept.deadline)
            self._changed.set()
            self._keeper.renewed(lease_id, kept.deadline)
        else:
            del self._kept[lease_id]
            self._keeper.lost(lease_id)

    def _due(self, deadline: float) -> float:
        """Return when to renew next: a third of a life after it was given, a little earlier or later for each."""
        jitter = _JITTER * (2 * self._chance() - 1)
        return deadline - self._lease_seconds * (1 - _DUE_AFTER * (1 + jitter))

"""A Prefect server of limits, leases and tags in memory, and a gateway to it: same answers, no HTTP, virtual time.

It passes the battery that the gateway to a real server passes (`tests.support.gateway_battery`). Faults are told to it:
answers that are lost after or before the change is applied, a restart that forgets leases and keeps counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, cast
from uuid import UUID, uuid4

from prefect_slots.errors import LimitMissing, ServerRefused, ServerUnreachable
from prefect_slots.limits.client import Server
from prefect_slots.limits.events import Announcer
from prefect_slots.limits.gateway import Gateway, Late
from prefect_slots.limits.outcome import Busy, ExistingLimit, OccupiedLease, TakenLimit, TooLarge, UnknownOutcome
from prefect_slots.model.finding import Stale

T = TypeVar("T")
Asked = Literal["occupy", "release", "release by holder", "renew", "read", "holders", "subtract", "add"]

REPOSSESSED_SECONDS = 10.0
"""How long after its end a lease's slots are given back, as the service of a real server does in rounds."""
_LEAST_LIFE = 60.0  # Prefect refuses shorter leases


@dataclass
class _Lease:
    id: UUID
    holder: UUID | None
    names: frozenset[str]
    slots: int
    ends: float


class FakeServer:
    """Limits with their counts, and leases with their holders.

    Attributes:
        asked: The requests that arrived, in order.
        is_away: Nothing arrives; callers are told so at once.
    """

    url = "http://fake.test/api"

    def __init__(self, now: Callable[[], float]) -> None:
        self.asked: list[Asked] = []
        self.is_away = False
        self._now = now
        self._limits: dict[str, ExistingLimit] = {}
        self._leases: dict[UUID, _Lease] = {}
        self._faults: deque[tuple[Asked, bool]] = deque()

    # For tests: what people and other programs do

    def create(self, name: str, limit: int) -> None:
        """Make a limit."""
        self._limits[name] = ExistingLimit(limit=limit, active=True, active_slots=0, id=uuid4())

    def delete(self, name: str) -> None:
        """Remove a limit."""
        del self._limits[name]

    def change(self, name: str, slots: int) -> None:
        """Count so many slots more, or fewer, without a lease."""
        found = self._limits[name]
        self._limits[name] = replace(found, active_slots=max(0, found.active_slots + slots))

    def count(self, name: str) -> int:
        """Return the slots counted on a limit."""
        self._repossess()
        return self._limits[name].active_slots

    def take(self, names: Iterable[str], slots: int, life: float = 300.0, holder: UUID | None = None) -> UUID:
        """Occupy limits and return the lease; by hand there is no holder."""
        lease = _Lease(id=uuid4(), holder=holder, names=frozenset(names), slots=slots, ends=self._now() + life)
        for name in lease.names:
            self.change(name, slots)
        self._leases[lease.id] = lease
        return lease.id

    def lose_answer_to(self, request: Asked) -> None:
        """Apply the next such request and lose its answer."""
        self._faults.append((request, True))

    def lose(self, request: Asked) -> None:
        """Lose the next such request on its way."""
        self._faults.append((request, False))

    def restart(self) -> None:
        """Forget every lease and keep every count, as a server does that keeps leases in memory."""
        self._leases.clear()

    # The server's side of each request

    async def answer(self, request: Asked, apply: Callable[[], T]) -> T:
        """Let a request arrive, and its answer travel back."""
        await asyncio.sleep(0)
        if self.is_away:
            raise ServerUnreachable(url=self.url, cause="connection refused")
        self._repossess()
        self.asked.append(request)
        lost = next((fault for fault in self._faults if fault[0] == request), None)
        if lost is None:
            return apply()
        self._faults.remove(lost)
        if lost[1]:
            apply()
        raise UnknownOutcome(request=request, cause="the connection was closed")

    def _repossess(self) -> None:
        for lease in [lease for lease in self._leases.values() if lease.ends + REPOSSESSED_SECONDS <= self._now()]:
            self.give_back(lease.id)

    def give_back(self, lease_id: UUID) -> None:
        """Free the slots of a lease; one that is not known frees nothing, and the answer is the same."""
        lease = self._leases.pop(lease_id, None)
        for name in lease.names & self._limits.keys() if lease is not None else ():
            self.change(name, -lease.slots if lease is not None else 0)

    def occupy(self, names: tuple[str, ...], slots: int, holder: UUID, life: float) -> tuple[UUID, list[str]]:
        """Take slots on all names that exist; return the lease and the names that do not."""
        if life < _LEAST_LIFE:
            raise ServerRefused(url=self.url, status=422, detail="Input should be greater than or equal to 60")
        there = [name for name in names if name in self._limits]
        if any(slots > self._limits[name].limit for name in there):
            raise TooLarge(names=names, slots=slots)
        if any(self._limits[name].active_slots + slots > self._limits[name].limit for name in there):
            raise Busy(names=names, retry_after=1.0)
        return self.take(there, slots, life, holder), sorted(set(names) - set(there))

    def renew(self, lease_id: UUID, life: float) -> bool:
        """Let a lease live that long from now; return whether it is listed."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.ends <= self._now():
            return False
        lease.ends = self._now() + life
        return True

    def read(self, name: str) -> ExistingLimit | None:
        """Return a limit."""
        return self._limits.get(name)

    def holders(self, name: str) -> tuple[UUID, ...]:
        """Return the holders of live leases on a limit."""
        if name not in self._limits:
            raise LimitMissing(names=(name,))
        live = [lease for lease in self._leases.values() if name in lease.names and lease.ends > self._now()]
        return tuple(lease.holder for lease in live if lease.holder is not None)

    def give_back_of(self, names: Iterable[str], holder: UUID) -> None:
        """Free every lease of a holder on any of these limits."""
        names = frozenset(names)
        for lease in [lease for lease in self._leases.values() if lease.holder == holder and lease.names & names]:
            self.give_back(lease.id)

    async def close(self) -> None:
        """End the connection."""


class FakeGateway(Gateway):
    """The gateway of one ledger to a fake server; only what goes over HTTP is different."""

    def __init__(self, fake: FakeServer, ledger_id: str) -> None:
        super().__init__(cast("Server", fake), ledger_id)
        self._fake = fake

    async def occupy(
        self,
        names: tuple[str, ...],
        slots: int,
        holder: UUID,
        lease_seconds: float,
        *,
        late: Late[OccupiedLease] | None = None,
    ) -> OccupiedLease:
        return await self._fly(self._taken(names, slots, holder, lease_seconds), late)

    async def _taken(self, names: tuple[str, ...], slots: int, holder: UUID, life: float) -> OccupiedLease:
        asked = (*names, *map(self.mirror, names))
        lease, missing = await self._fake.answer("occupy", lambda: self._fake.occupy(asked, slots, holder, life))
        if missing:
            self._fake.give_back(lease)
            raise LimitMissing(names=tuple(missing))
        found = {name: self._fake.read(name) for name in asked}
        taken = [TakenLimit(id=each.id, name=name, limit=slots) for name, each in found.items() if each and each.id]
        limits, mirrors = tuple(taken[: len(names)]), tuple(taken[len(names) :])
        return OccupiedLease(id=lease, seconds=life - 0.01, limits=limits, mirrors=mirrors)

    async def release(self, lease_id: UUID, *, late: Late[None] | None = None) -> None:
        await self._fly(self._fake.answer("release", lambda: self._fake.give_back(lease_id)), late)

    async def release_by_holder(self, names: tuple[str, ...], holder: UUID, *, late: Late[None] | None = None) -> None:
        mirrors = [self.mirror(name) for name in names]
        await self._fly(self._fake.answer("release by holder", lambda: self._fake.give_back_of(mirrors, holder)), late)

    async def renew(self, lease_id: UUID, seconds: float) -> bool:
        return await self._fake.answer("renew", lambda: self._fake.renew(lease_id, seconds))

    async def holders(self, limit: str) -> tuple[UUID, ...]:
        return await self._fake.answer("holders", lambda: self._fake.holders(self.mirror(limit)))

    async def read(self, name: str) -> ExistingLimit | None:
        return await self._fake.answer("read", lambda: self._fake.read(name))

    async def last_change(self, name: str, found: ExistingLimit) -> tuple[float, str] | None:  # noqa: ARG002
        return None

    async def subtract(self, limit: str, slots: int, *, late: Late[None] | None = None) -> None:
        def apply() -> None:
            for name in (limit, self.mirror(limit)):
                self._fake.change(name, -slots)

        await self._fly(self._fake.answer("subtract", apply), late)

    async def add(self, limit: str, slots: int, *, late: Late[None] | None = None) -> None:
        def apply() -> None:
            found = self._fake.read(limit)
            if found is not None and found.active_slots + slots <= found.limit:
                self._fake.change(limit, slots)

        await self._fly(self._fake.answer("add", apply), late)


class SilentAnnouncer(Announcer):
    """Notes what would be told to others."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def acquired(self, lease: OccupiedLease, slots: int) -> None:
        self.told += [(limit.name, slots) for limit in lease.limits]

    def released(self, lease_id: UUID | None, names: tuple[str, ...], slots: int) -> None:  # noqa: ARG002
        self.told += [(name, -slots) for name in names]

    def stale(self, stale: Stale) -> None:
        pass

    async def close(self) -> None:
        pass

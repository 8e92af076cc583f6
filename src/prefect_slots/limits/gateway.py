"""The gateway: occupy, release, renew and look up slots of limits, one HTTP request each.

Every increment also names this ledger's mirror of each limit, so that a lost answer can be looked up by its holder.
A change that may have been applied is never repeated, nothing waits for a slot, and no order is chosen here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import UUID

import httpx

from prefect_slots.errors import LimitMissing, ServerUnreachable
from prefect_slots.limits.client import REQUEST_SECONDS, Database, Server, detail_of
from prefect_slots.limits.history import last_change
from prefect_slots.limits.naming import mirror_of, tag_of
from prefect_slots.limits.outcome import Busy, ExistingLimit, OccupiedLease, TakenLimit, TooLarge, UnknownOutcome

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse

T = TypeVar("T")
# Takes the outcome of a call after its caller was cancelled: the result or the exception.
Late = Callable[[T | BaseException], None]

# Prefect gives this refusal no code of its own, only these words.
_TOO_LARGE = "greater than the limit"
# The server computes its advice to waiters from the mean time that slots are held. The real time is unknown here; a
# large number would make others sleep long.
_OCCUPANCY_SECONDS = 1.0
# The process cannot end before; a server that hangs must not keep it for long.
_CLOSE_SECONDS = 5.0


class Gateway:
    """Slots on one server for one ledger; made by `Gateway.open`, used from the event loop that opened it.

    A cancelled call is not taken back: its request goes on, and the caller learns the outcome by `late` or looks it up.
    A request cancelled half-way would have an unknown outcome instead.
    """

    def __init__(self, server: Server, ledger_id: str) -> None:
        self.server = server
        self._ledger_id = ledger_id
        self._in_flight: set[asyncio.Task[Any]] = set()

    @classmethod
    async def open(
        cls,
        ledger_id: str,
        *,
        url: str | None = None,
        request_seconds: float = REQUEST_SECONDS,
        database: Database | None = None,
    ) -> Self:
        """Make the gateway of one process. Sends nothing yet.

        Args:
            ledger_id: The ledger that owns the mirrors.
            url: The API's address; by default `PREFECT_API_URL`.
            request_seconds: Seconds after which a missing answer's outcome counts as unknown.
            database: The kind of the server's database, if it is known.

        Raises:
            ServerUnreachable: if no address is known.
        """
        return cls(await Server.open(url, request_seconds=request_seconds, database=database), ledger_id)

    async def close(self) -> None:
        """Wait a few seconds for requests in flight, then close the connections. Releases nothing."""
        if self._in_flight:
            _, unfinished = await asyncio.wait(self._in_flight, timeout=_CLOSE_SECONDS)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
        await self.server.close()

    async def occupy(
        self,
        names: tuple[str, ...],
        slots: int,
        holder: UUID,
        lease_seconds: float,
        *,
        late: Late[OccupiedLease] | None = None,
    ) -> OccupiedLease:
        """Take `slots` on each of `names` and on their mirrors, all or nothing, without waiting.

        Args:
            names: Limits, without mirrors.
            slots: The same number on every name, above zero.
            holder: The key of this call in the mirrors' lists. Use a new one for every call.
            lease_seconds: Life of the lease, 60 to 86,400.
            late: See `Late`.

        Raises:
            Busy: the slots are held by others; nothing was taken.
            TooLarge: a limit has fewer than `slots`; nothing was taken.
            LimitMissing: the server lacks some of the names or mirrors; the slots on the others were given back.
            UnknownOutcome: the slots may be held; `find` tells.
            ServerUnreachable: nothing was taken.
            ServerRefused: nothing was taken, and trying again will not help.
        """
        # Each method must have its request sent in one task, which `_fly` can shield.
        return await self._fly(self._occupy(names, slots, holder, lease_seconds), late)

    async def _occupy(self, names: tuple[str, ...], slots: int, holder: UUID, lease_seconds: float) -> OccupiedLease:
        from prefect.client.schemas.objects import ConcurrencyLeaseHolder

        asked = (*names, *(self.mirror(name) for name in names))
        # Prefect's tag routes list holders of this type only.
        held_by = ConcurrencyLeaseHolder(type="task_run", id=holder)
        sent = 0.0

        def increment(client: PrefectClient) -> Coroutine[Any, Any, httpx.Response]:
            # `ask` may send it again after a 503: the lease lives from the last time.
            nonlocal sent
            sent = time.monotonic()
            return client.increment_concurrency_slots_with_lease(
                names=list(asked), slots=slots, mode="concurrency", lease_duration=lease_seconds, holder=held_by
            )

        try:
            answer = await self.server.ask(increment, expected=(422, 423))
        except httpx.HTTPStatusError as error:
            raise self._refusal(error.response, names, slots) from error
        try:
            body = answer.json()
            lease = UUID(body["lease_id"])
            granted = tuple(
                TakenLimit(id=UUID(limit["id"]), name=limit["name"], limit=int(limit["limit"]))
                for limit in body["limits"]
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UnknownOutcome(request="increment", cause=f"an answer that is not Prefect's: {error!r}") from error
        missing = sorted(set(asked) - {limit.name for limit in granted})
        if missing:
            # Prefect grants what exists and skips the rest in silence.
            await self._undo(lease, missing)
            raise LimitMissing(names=tuple(missing))
        seconds = lease_seconds - (time.monotonic() - sent)
        limits = tuple(limit for limit in granted if limit.name in names)
        mirrors = tuple(limit for limit in granted if limit.name not in names)
        return OccupiedLease(id=lease, seconds=seconds, limits=limits, mirrors=mirrors)

    async def _undo(self, lease: UUID, missing: list[str]) -> None:
        try:
            await self._release(lease)
        except (ServerUnreachable, UnknownOutcome) as error:
            cause = f"taken without {', '.join(missing)}, which the server lacks, and not given back: {error}"
            raise UnknownOutcome(request="increment", cause=cause) from error

    def _refusal(self, answer: httpx.Response, names: tuple[str, ...], slots: int) -> Exception:
        if answer.status_code == 423:
            try:
                wait = float(answer.headers["Retry-After"])
            except (KeyError, ValueError):
                wait = None
            return Busy(names=names, retry_after=wait)
        if _TOO_LARGE in detail_of(answer):
            return TooLarge(names=names, slots=slots)
        return self.server.refused(answer)

    async def release(self, lease_id: UUID, *, late: Late[None] | None = None) -> None:
        """Give back a lease, once: a second release of one lease, sent at the same time, subtracts twice.

        After it, the lease holds nothing. The server answers the same for a lease that it had forgotten, and then
        frees nothing; only the mirror's count shows that.

        Raises:
            UnknownOutcome: it may have been given back.
            ServerUnreachable: nothing was sent.
        """
        await self._fly(self._release(lease_id), late)

    async def _release(self, lease_id: UUID) -> None:
        await self._send(lambda client: client.release_concurrency_slots_with_lease(lease_id))

    async def renew(self, lease_id: UUID, seconds: float) -> bool:
        """Let a lease live `seconds` from now; repeating it does no harm.

        Returns:
            False if the server does not list the lease: it expired, or the server forgot it at a restart.

        Raises:
            UnknownOutcome: it may have been renewed.
            ServerUnreachable: nothing was sent.
        """
        try:
            await self.server.ask(lambda client: client.renew_concurrency_lease(lease_id, seconds), expected=(410,))
        except httpx.HTTPStatusError:
            return False
        return True

    async def holders(self, limit: str) -> tuple[UUID, ...]:
        """Return the holders of live leases that this ledger has on `limit`, as the server lists them.

        Raises:
            LimitMissing: if the server has no mirror of `limit` for this ledger.
            ServerUnreachable: if it does not answer.
        """
        from prefect.exceptions import ObjectNotFound

        mirror = self.mirror(limit)
        try:
            found = await self.server.ask(lambda client: client.read_concurrency_limit_by_tag(tag_of(mirror)))
        except ObjectNotFound as error:
            raise LimitMissing(names=(mirror,)) from error
        return tuple(UUID(str(holder)) for holder in found.active_slots)

    async def find(self, limit: str, holder: UUID) -> bool:
        """Return True if the server lists a live lease of `holder` on our mirror of `limit`.

        False means little while the call in question may still be on its way.

        Raises:
            LimitMissing: if the server has no mirror of `limit` for this ledger.
            ServerUnreachable: if it does not answer.
        """
        return holder in await self.holders(limit)

    async def release_by_holder(self, names: tuple[str, ...], holder: UUID, *, late: Late[None] | None = None) -> None:
        """Give back every lease that `holder` has on our mirrors of `names`: the whole lease, limit and mirror.

        For a lease whose id was lost with its answer. Does nothing where none is listed. As `release`, never twice at
        the same time.

        Raises:
            UnknownOutcome: it may have been given back.
            ServerUnreachable: nothing was sent.
        """
        tags = [tag_of(self.mirror(name)) for name in names]
        decrement = self._send(
            lambda client: client.decrement_v1_concurrency_slots(
                names=tags, task_run_id=holder, occupancy_seconds=_OCCUPANCY_SECONDS
            )
        )
        await self._fly(decrement, late)

    async def read(self, name: str) -> ExistingLimit | None:
        """Return the limit of that name, or `None`; pass `mirror(name)` to read our part of it.

        Raises:
            ServerUnreachable: if the server does not answer.
        """
        return await read_limit(self.server, name)

    async def last_change(self, name: str, found: ExistingLimit) -> tuple[float, str] | None:
        """Return the time and the author of the change to what was found; see `history.last_change`."""
        return await last_change(self.server, name, found.limit, active=found.active)

    def mirror(self, limit: str) -> str:
        """Return the name of this ledger's mirror of `limit`."""
        return mirror_of(limit, self._ledger_id)

    async def subtract(self, limit: str, slots: int, *, late: Late[None] | None = None) -> None:
        """Take `slots` off `limit` and off our mirror of it in one transaction, whatever its holders.

        Only for counts without a lease, after the server forgot its leases.

        Raises:
            UnknownOutcome: it may have been done; read the mirror again.
            ServerUnreachable: nothing was sent.
        """
        names = [limit, self.mirror(limit)]
        decrement = self._send(
            lambda client: client.release_concurrency_slots(
                names=names, slots=slots, occupancy_seconds=_OCCUPANCY_SECONDS
            )
        )
        await self._fly(decrement, late)

    async def add(self, limit: str, slots: int, *, late: Late[None] | None = None) -> None:
        """Count `slots` more on `limit`, without a lease and without its mirror.

        Only for leases of ours that a person has taken off the count by hand.

        Raises:
            UnknownOutcome: it may have been done.
            ServerUnreachable: nothing was sent.
        """
        await self._fly(self._add(limit, slots), late)

    async def _add(self, limit: str, slots: int) -> None:
        try:
            await self.server.ask(
                lambda client: client.increment_concurrency_slots(names=[limit], slots=slots, mode="concurrency"),
                expected=(422, 423),
            )
        except httpx.HTTPStatusError:
            return  # others have taken the room meanwhile: there is nothing left to count it on

    async def _send(self, change: Callable[[PrefectClient], Awaitable[object]]) -> None:
        await self.server.ask(change)

    async def _fly(self, call: Coroutine[Any, Any, T], late: Late[T] | None) -> T:
        """Run `call` to its end even if its caller is cancelled; then tell `late`, exactly once."""
        task = asyncio.get_running_loop().create_task(call)
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda ended: _tell(ended, late))
            raise


def _tell(ended: asyncio.Task[T], late: Late[T] | None) -> None:
    if ended.cancelled():
        outcome: T | BaseException = UnknownOutcome(request="a call in flight", cause="the gateway was closed")
    else:
        outcome = ended.exception() or ended.result()
    if late is not None:
        late(outcome)


async def read_limit(server: Server, name: str) -> ExistingLimit | None:
    """Return the limit of that name, or `None` if the server has none."""
    from prefect.exceptions import ObjectNotFound

    try:
        found = await server.ask(lambda client: client.read_global_concurrency_limit_by_name(name))
    except ObjectNotFound:
        return None
    return existing_limit(found)


def existing_limit(found: GlobalConcurrencyLimitResponse) -> ExistingLimit:
    """Return Prefect's answer about a limit as a record of ours."""
    return ExistingLimit(
        limit=found.limit,
        active=found.active,
        active_slots=found.active_slots,
        decay=found.slot_decay_per_second,
        changed_at=found.updated.timestamp() if found.updated else 0.0,
        id=found.id,
    )

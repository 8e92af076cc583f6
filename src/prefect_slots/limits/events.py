"""Prefect's own events about slots: this process announces its leases, and hears of the releases of others.

Events save waiting and are no proof: the server keeps a bounded number for each listener, and sends none for leases
that ran out. So nothing here fails because of them, and a waiter also asks the server now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from uuid import UUID, uuid4

from prefect_slots.errors import ServerRefused, SlotsError
from prefect_slots.limits import outcome, prefect_private, transport
from prefect_slots.model import Stale
from prefect_slots.system import clock

if TYPE_CHECKING:
    from prefect.events.clients import PrefectEventSubscriber

    from prefect_slots.limits.client import Server

_EVENT = "prefect.concurrency-limit"
_STALE = "prefect-slots.resource.stale"
_RELEASED = f"{_EVENT}.released"
# Prefect links two events only when they lie this close together.
_LINKED = timedelta(minutes=5)
# Of a server that is away, the newest are kept: news of the last minutes is all that a listener can use.
_QUEUED = 1000
# One request with more would keep a server on SQLite from others for too long.
_AT_ONCE = 100
# The closing handshake of a web socket with a stopped server; by default it takes ten seconds.
_FAREWELL_SECONDS = 1.0
# A server that is still starting accepts a connection and answers late.
_CONNECT_SECONDS = 20.0
# The next holder of the slots asks the server now, and should not find it busy with events.
_GATHER_SECONDS = 0.05
# These two bound the end of every process that held a slot: under a second in all.
_FLUSH_SECONDS = 0.5
_CLOSE_SECONDS = 0.3
# First and longest pause before a new connection: soon after a restart, and rarely while a server is away.
_PAUSE_SECONDS = (0.1, 10.0)

_log = logging.getLogger("prefect_slots")


@dataclass(frozen=True, kw_only=True)
class _News:
    """The events about one call.

    Attributes:
        ids: The event's id for each limit.
        follows: For a release, the id of the event about each limit's acquisition.
    """

    phase: Literal["acquired", "released"]
    names: tuple[str, ...]
    slots: int
    occurred: datetime
    ids: dict[str, UUID]
    follows: dict[str, UUID] = field(default_factory=dict[str, UUID])


class Announcer:
    """Announces the slots that this process takes and gives back, by the same events as Prefect's own `concurrency()`.

    Used from one event loop. A task of its own sends the queued events: neither it nor a server that is away delays a
    caller.

    Args:
        server: The receiver of the events, and the source of a limit's id if this process has taken nothing on it.
    """

    # All queued events go in one request. A connection kept for them, as Prefect's own clients keep one, would count as
    # a request under way all the time, and Prefect's server on SQLite serves a hundred at once and then nobody.

    def __init__(self, server: Server) -> None:
        self._server = server
        self._limits: dict[str, outcome.TakenLimit] = {}
        self._acquired: dict[UUID, _News] = {}
        self._queue: deque[_News | dict[str, Any]] = deque(maxlen=_QUEUED)
        self._queued = asyncio.Event()
        self._sent = asyncio.Event()
        self._pausing = False
        self._closed = False
        self._task: asyncio.Task[NoReturn] | None = None

    def acquired(self, lease: outcome.OccupiedLease, slots: int) -> None:
        """Announce that `slots` were taken on each limit of `lease`."""
        self._limits |= {limit.name: limit for limit in lease.limits}
        news = _news("acquired", tuple(limit.name for limit in lease.limits), slots)
        for old in [id for id, taken in self._acquired.items() if news.occurred - taken.occurred > _LINKED]:
            del self._acquired[old]
        self._acquired[lease.id] = news
        self._tell(news)

    def released(self, lease_id: UUID | None, names: tuple[str, ...], slots: int) -> None:
        """Announce that a lease was given back; call it after the server has confirmed that.

        Args:
            lease_id: The lease, taken by any process; `None` where its id was lost with an answer.
            names: Its limits, without mirrors.
            slots: The number given back on each of them.
        """
        news = _news("released", names, slots)
        taken = self._acquired.pop(lease_id, None) if lease_id is not None else None
        if taken is not None and news.occurred - taken.occurred < _LINKED:
            news.follows.update(taken.ids)
        self._tell(news)

    def stale(self, stale: Stale) -> None:
        """Announce that the use of a resource by others has not been read for a while."""
        self._tell(_alarm(stale))

    def _tell(self, news: _News | dict[str, Any]) -> None:
        self._queue.append(news)
        self._queued.set()
        self._sent.clear()
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._send())

    async def close(self) -> None:
        """Send the queued events if the server is there; takes a second at most."""
        self._closed = True
        task, self._task = self._task, None
        if task is None:
            return
        # In a pause the server is away: waiting for it would delay the end of the process for nothing.
        if not self._pausing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_SECONDS):
                    await self._sent.wait()
        task.cancel()
        await asyncio.wait({task}, timeout=_CLOSE_SECONDS)

    async def _send(self) -> NoReturn:
        pauses = _Pauses()
        while True:
            await self._queued.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            news = [self._queue.popleft() for _ in range(min(len(self._queue), _AT_ONCE))]
            try:
                await self._post(news)
                pauses = _Pauses()
            except Exception as error:
                _log.debug("telling %s: %s", self._server.url, error)
                if not isinstance(error, ServerRefused):
                    # Sent again even if only the answer was lost: the server knows an event by its id.
                    self._queue = deque([*news, *self._queue], maxlen=_QUEUED)
                self._pausing = True
                await pauses.sleep()
                self._pausing = False
            if not self._queue:
                self._queued.clear()
                self._sent.set()

    async def _post(self, news: Iterable[_News | dict[str, Any]]) -> None:
        from prefect.events import Event

        events: list[Event] = []
        for each in news:
            bodies = [each] if isinstance(each, dict) else await self._bodies_of(each)
            try:
                events += [Event.model_validate(body) for body in bodies]
            except ValueError as error:
                # A call on very many limits: an event may name a bounded number of related resources.
                _log.debug("more than an event may hold: %s", error)
        if events:
            body = [event.model_dump(mode="json") for event in events]
            await self._server.ask(lambda client: client.request("POST", "/events", json=body))

    async def _bodies_of(self, news: _News) -> list[dict[str, Any]]:
        limits = [limit for limit in [await self._limit(name) for name in news.names] if limit is not None]
        return [_body(news, limit, limits) for limit in limits]

    async def _limit(self, name: str) -> outcome.TakenLimit | None:
        from prefect.exceptions import ObjectNotFound

        if name not in self._limits:
            try:
                found = await self._server.ask(lambda client: client.read_global_concurrency_limit_by_name(name))
            except (ObjectNotFound, SlotsError):
                return None
            self._limits[name] = outcome.TakenLimit(id=found.id, name=found.name, limit=found.limit)
        return self._limits[name]


def _news(phase: Literal["acquired", "released"], names: tuple[str, ...], slots: int) -> _News:
    ids = {name: uuid4() for name in names}
    return _News(phase=phase, names=names, slots=slots, occurred=datetime.now(UTC), ids=ids)


def _body(news: _News, limit: outcome.TakenLimit, limits: list[outcome.TakenLimit]) -> dict[str, Any]:
    """Return the event about one limit of a call, equal to that of Prefect's own clients."""
    return {
        "id": news.ids[limit.name],
        "event": f"{_EVENT}.{news.phase}",
        "occurred": news.occurred,
        "follows": news.follows.get(limit.name),
        "resource": {
            "prefect.resource.id": _resource_id(limit),
            "prefect.resource.name": limit.name,
            "slots-acquired": str(news.slots),
            "limit": str(limit.limit),
        },
        "related": [
            {"prefect.resource.id": _resource_id(other), "prefect.resource.role": "concurrency-limit"}
            for other in limits
            if other.id != limit.id
        ],
    }


def _alarm(stale: Stale) -> dict[str, Any]:
    """Return the event about a resource, with its label where it has several cells."""
    seen_at = "" if stale.seen_at is None else datetime.fromtimestamp(stale.seen_at, UTC).isoformat()
    return {
        # Its id is made here: sent again after a lost answer, it must be the same event.
        "id": uuid4(),
        "event": _STALE,
        "occurred": datetime.now(UTC),
        "resource": {
            "prefect.resource.id": f"prefect-slots.resource.{stale.machine}.{stale.resource}",
            "prefect.resource.name": stale.resource,
            "machine": stale.machine,
            "label": stale.label,
        },
        "payload": {"seen_at": seen_at, "misses": stale.misses, "why": stale.why},
    }


def _resource_id(limit: outcome.TakenLimit) -> str:
    return f"{_EVENT}.{limit.id}"


class Releases:
    """Hears of slots given back by any process, with prefect-slots or without.

    Args:
        url: The API's address, with credentials if it holds any.
        names: Returns the names of the limits to report; called for each event.
    """

    def __init__(self, url: str, names: Callable[[], Collection[str]]) -> None:
        self._url = url
        self._names = names

    async def run(self, on_released: Callable[[frozenset[str]], None], on_connected: Callable[[], None]) -> NoReturn:
        """Listen until cancelled, through restarts of the server; silent where it cannot be listened to.

        Args:
            on_released: Called with the limits, for some of them perhaps again: after connecting, the server repeats
                the releases of the last minute.
            on_connected: Called each time listening begins. Earlier releases may stay unheard, so that a waiter must
                ask the server once.
        """
        pauses = _Pauses()
        with _hushed():
            while True:
                try:
                    await self._listen(on_released, on_connected, pauses)
                    _log.debug("%s has closed the stream of events", transport.without_password(self._url))
                except Exception as error:  # of Prefect's client, which documents none
                    _log.debug("listening to %s: %s", transport.without_password(self._url), error)
                await pauses.sleep()

    async def _listen(
        self, on_released: Callable[[frozenset[str]], None], on_connected: Callable[[], None], pauses: _Pauses
    ) -> None:
        subscriber = _subscriber(self._url)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_exit(subscriber)
            async with asyncio.timeout(_CONNECT_SECONDS):
                await subscriber.__aenter__()
                await _until_the_filter_has_arrived(subscriber)
            pauses.connected()
            on_connected()
            async for event in subscriber:
                name = event.resource.name
                if name is not None and name in self._names():
                    on_released(frozenset({name}))


async def _until_the_filter_has_arrived(subscriber: PrefectEventSubscriber) -> None:
    # Prefect's client sends its filter last, and the server subscribes us when it has read it, without a word. The
    # answer to a ping that was sent after the filter proves that it was read.
    websocket = prefect_private.websocket_of(subscriber)
    if websocket is not None:
        # A server that is stopped or busy would keep a process from ending for as long as all of its exit may take.
        websocket.close_timeout = _FAREWELL_SECONDS
        await (await websocket.ping())


def _subscriber(url: str) -> PrefectEventSubscriber:
    from prefect.events.clients import PrefectCloudEventSubscriber, PrefectEventSubscriber
    from prefect.events.filters import EventFilter, EventNameFilter
    from prefect.settings import PREFECT_CLOUD_API_URL

    on_cloud = url.startswith(PREFECT_CLOUD_API_URL.value())
    kind = PrefectCloudEventSubscriber if on_cloud else PrefectEventSubscriber
    only_releases = EventFilter(event=EventNameFilter(name=[_RELEASED]))
    # One attempt: after a new connection that Prefect's client made by itself, `on_connected` would not be called.
    return kind(api_url=url, filter=only_releases, reconnection_attempts=0)


class _Pauses:
    """Pauses before a new connection: longer each time, until a connection has lasted."""

    def __init__(self) -> None:
        self._next, self._longest = _PAUSE_SECONDS
        self._connected_at: float | None = None

    def connected(self) -> None:
        self._connected_at = time.monotonic()

    async def sleep(self) -> None:
        # A server that accepts connections and closes them at once counts as one that is away.
        if self._connected_at is not None and time.monotonic() - self._connected_at > self._longest:
            self._next = _PAUSE_SECONDS[0]
        self._connected_at = None
        await asyncio.sleep(clock.around(self._next))
        self._next = min(self._next * 2, self._longest)


_is_ours: ContextVar[bool] = ContextVar("prefect_slots_events", default=False)


def _hush(record: logging.LogRecord) -> bool:
    """Drop the log lines of Prefect's clients about our connections, which are tried for ever."""
    return record.levelno <= logging.DEBUG or not _is_ours.get()


# A context variable and no flag: the user's own subscribers in other tasks keep their lines.
@contextlib.contextmanager
def _hushed() -> Generator[None]:
    for name in ("prefect.events.clients", "websockets.client"):
        logging.getLogger(name).addFilter(_hush)
    token = _is_ours.set(True)
    try:
        yield
    finally:
        _is_ours.reset(token)

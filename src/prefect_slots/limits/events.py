"""Prefect's own events about slots: telling what this process took and gave back, hearing what others gave back.

They save waiting and are no proof: the server keeps a bounded number for each listener, and sends none for leases that
ran out. So nothing here fails because of them, and whoever waits also looks for itself now and then.
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
from typing import TYPE_CHECKING, Final, Literal, NoReturn
from uuid import UUID, uuid4

from prefect_slots.errors import ServerRefused, SlotsError
from prefect_slots.limits.outcome import OccupiedLease, TakenLimit
from prefect_slots.limits.transport import without_password
from prefect_slots.model.finding import Stale
from prefect_slots.system import clock

if TYPE_CHECKING:
    from prefect.events import Event
    from prefect.events.clients import PrefectEventSubscriber

    from prefect_slots.limits.client import Server

_EVENT: Final = "prefect.concurrency-limit"
_STALE: Final = "prefect-slots.resource.stale"
_RELEASED: Final = f"{_EVENT}.released"
# Prefect links two events only when they lie this close together.
_LINKED: Final = timedelta(minutes=5)
_QUEUED: Final = 1000
_AT_ONCE: Final = 100
_FAREWELL_SECONDS: Final = 1.0
_CONNECT_SECONDS: Final = 20.0
_GATHER_SECONDS: Final = 0.05
_FLUSH_SECONDS: Final = 0.5
_CLOSE_SECONDS: Final = 0.3
_PAUSE_SECONDS: Final = (0.1, 10.0)

_log = logging.getLogger("prefect_slots")


@dataclass(frozen=True, kw_only=True)
class _News:
    """What is to be told of one call.

    Attributes:
        ids: The event about each limit.
        follows: For a release, the event by which each limit was acquired.
    """

    phase: Literal["acquired", "released"]
    names: tuple[str, ...]
    slots: int
    occurred: datetime
    ids: dict[str, UUID]
    follows: dict[str, UUID] = field(default_factory=dict[str, UUID])


@dataclass(frozen=True, kw_only=True)
class _Alarm:
    """What is to be told of a resource of which nobody tells any more."""

    id: UUID
    occurred: datetime
    stale: Stale


class Announcer:
    """Tells others which slots this process takes and gives back, in the words of Prefect's own `concurrency()`.

    Used from one event loop. What is told is queued and sent by a task of its own, all that is queued in one request:
    a connection kept for it, as Prefect's own clients keep one, would count as a request under way all the time, and
    Prefect's server on SQLite serves a hundred at once and then nobody. Neither that task nor a server that is away
    ever holds anybody up.

    Args:
        server: Told, and asked for the id of a limit on which this process has taken nothing itself.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._limits: dict[str, TakenLimit] = {}
        self._acquired: dict[UUID, _News] = {}
        self._queue: deque[_News | _Alarm] = deque(maxlen=_QUEUED)
        self._queued = asyncio.Event()
        self._sent = asyncio.Event()
        self._pausing = False
        self._closed = False
        self._task: asyncio.Task[NoReturn] | None = None

    def acquired(self, lease: OccupiedLease, slots: int) -> None:
        """Tell that `slots` were taken on each limit of `lease`."""
        self._limits |= {limit.name: limit for limit in lease.limits}
        news = _news("acquired", tuple(limit.name for limit in lease.limits), slots)
        for old in [id for id, taken in self._acquired.items() if news.occurred - taken.occurred > _LINKED]:
            del self._acquired[old]
        self._acquired[lease.id] = news
        self._tell(news)

    def released(self, lease_id: UUID | None, names: tuple[str, ...], slots: int) -> None:
        """Tell that a lease was given back, after the server has said so.

        Args:
            lease_id: Whoever took it; `None` where its id was lost with an answer.
            names: Its limits, without mirrors.
            slots: Given back on each of them.
        """
        news = _news("released", names, slots)
        taken = self._acquired.pop(lease_id, None) if lease_id is not None else None
        if taken is not None and news.occurred - taken.occurred < _LINKED:
            news.follows.update(taken.ids)
        self._tell(news)

    def stale(self, stale: Stale) -> None:
        """Tell that what others use of a resource has not been told for a while."""
        self._tell(_Alarm(id=uuid4(), occurred=datetime.now(UTC), stale=stale))

    def _tell(self, news: _News | _Alarm) -> None:
        self._queue.append(news)
        self._queued.set()
        self._sent.clear()
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._send())

    async def close(self) -> None:
        """Send what is queued if the server is there; takes a second at most."""
        self._closed = True
        task, self._task = self._task, None
        if task is None:
            return
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
            # Whoever is to have the slots next asks the server now, and should not find it busy with the news.
            await asyncio.sleep(_GATHER_SECONDS)
            news = [self._queue.popleft() for _ in range(min(len(self._queue), _AT_ONCE))]
            try:
                await self._post(news)
            except ServerRefused as refused:
                _log.debug("%s does not want to know: %s", self._server.url, refused)
                await self._pause(pauses)
            except Exception as error:
                # Sent again even if only the answer was lost: the server knows an event by its id.
                _log.debug("telling %s: %s", self._server.url, error)
                self._queue = deque([*news, *self._queue], maxlen=_QUEUED)
                await self._pause(pauses)
            else:
                pauses = _Pauses()
            if not self._queue:
                self._queued.clear()
                self._sent.set()

    async def _pause(self, pauses: _Pauses) -> None:
        self._pausing = True
        await pauses.sleep()
        self._pausing = False

    async def _post(self, news: Iterable[_News | _Alarm]) -> None:
        events: list[Event] = []
        for each in news:
            events += [_alarm(each)] if isinstance(each, _Alarm) else await self._events_of(each)
        if events:
            body = [event.model_dump(mode="json") for event in events]
            await self._server.ask(lambda client: client.request("POST", "/events", json=body))

    async def _events_of(self, news: _News) -> list[Event]:
        limits = [limit for limit in [await self._limit(name) for name in news.names] if limit is not None]
        try:
            return [_event(news, limit, limits) for limit in limits]
        except ValueError as error:
            _log.debug("more than an event may hold: %s", error)
            return []

    async def _limit(self, name: str) -> TakenLimit | None:
        from prefect.exceptions import ObjectNotFound

        if name not in self._limits:
            try:
                found = await self._server.ask(lambda client: client.read_global_concurrency_limit_by_name(name))
            except (ObjectNotFound, SlotsError):
                return None
            self._limits[name] = TakenLimit(id=found.id, name=found.name, limit=found.limit)
        return self._limits[name]


def _news(phase: Literal["acquired", "released"], names: tuple[str, ...], slots: int) -> _News:
    ids = {name: uuid4() for name in names}
    return _News(phase=phase, names=names, slots=slots, occurred=datetime.now(UTC), ids=ids)


def _event(news: _News, limit: TakenLimit, limits: list[TakenLimit]) -> Event:
    """Return the event about one limit of a call, equal to that of Prefect's own clients."""
    from prefect.events import Event

    return Event.model_validate(
        {
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
    )


def _alarm(alarm: _Alarm) -> Event:
    """Return the event about a resource, with its label where it has several cells."""
    from prefect.events import Event

    stale = alarm.stale
    seen_at = "" if stale.seen_at is None else datetime.fromtimestamp(stale.seen_at, UTC).isoformat()
    return Event.model_validate(
        {
            "id": alarm.id,
            "event": _STALE,
            "occurred": alarm.occurred,
            "resource": {
                "prefect.resource.id": f"prefect-slots.resource.{stale.machine}.{stale.resource}",
                "prefect.resource.name": stale.resource,
                "machine": stale.machine,
                "label": stale.label,
            },
            "payload": {"seen_at": seen_at, "misses": stale.misses, "why": stale.why},
        }
    )


def _resource_id(limit: TakenLimit) -> str:
    return f"{_EVENT}.{limit.id}"


class Releases:
    """Hears which limits somebody gave slots back on: any process, with prefect-slots or without.

    Args:
        url: The API's address, with credentials if it holds any.
        names: Returns the limits to hear of; asked for each event.
    """

    def __init__(self, url: str, names: Callable[[], Collection[str]]) -> None:
        self._url = url
        self._names = names

    async def run(self, on_released: Callable[[frozenset[str]], None], on_connected: Callable[[], None]) -> NoReturn:
        """Listen until cancelled, through restarts of the server; quiet where it cannot be listened to.

        Args:
            on_released: Told the limits, some of them perhaps once more: after connecting, the server repeats what was
                released within the last minute.
            on_connected: Told whenever listening begins or begins again. What was released before may not be told, so
                whoever waits must look once.
        """
        pauses = _Pauses()
        with _hushed():
            while True:
                try:
                    await self._listen(on_released, on_connected, pauses)
                    _log.debug("%s has closed the stream of events", without_password(self._url))
                except Exception as error:  # whatever Prefect's client raises
                    _log.debug("listening to %s: %s", without_password(self._url), error)
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
    # Prefect's client sends its filter last, and the server subscribes us when it has read it, without a word. An
    # answer to what was sent after the filter says that it is there.
    websocket = vars(subscriber).get("_websocket")
    if websocket is not None:
        # A server that is stopped or busy would keep a process from ending for as long as all of its exit may take.
        websocket.close_timeout = _FAREWELL_SECONDS
        await (await websocket.ping())


def _is_cloud(url: str) -> bool:
    from prefect.settings import PREFECT_CLOUD_API_URL

    return url.startswith(PREFECT_CLOUD_API_URL.value())


def _subscriber(url: str) -> PrefectEventSubscriber:
    from prefect.events.clients import PrefectCloudEventSubscriber, PrefectEventSubscriber
    from prefect.events.filters import EventFilter, EventNameFilter

    kind = PrefectCloudEventSubscriber if _is_cloud(url) else PrefectEventSubscriber
    only_releases = EventFilter(event=EventNameFilter(name=[_RELEASED]))
    # One attempt: whoever uses it must learn of every new connection.
    return kind(api_url=url, filter=only_releases, reconnection_attempts=0)


class _Pauses:
    """How long to wait before the next connection: longer each time, until one has lasted."""

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


class _Hush(logging.Filter):
    """Drops what Prefect's clients have to say about connections of ours, which are tried for ever."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno <= logging.DEBUG or not _is_ours.get()


_HUSH: Final = _Hush()


@contextlib.contextmanager
def _hushed() -> Generator[None]:
    for name in ("prefect.events.clients", "websockets.client"):
        logging.getLogger(name).addFilter(_HUSH)
    token = _is_ours.set(True)
    try:
        yield
    finally:
        _is_ours.reset(token)

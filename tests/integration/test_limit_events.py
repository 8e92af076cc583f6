"""Events about slots: ours are Prefect's, others' are heard, and neither a restart nor a deaf server does harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
from collections.abc import AsyncGenerator
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.events import Event
from prefect.events.clients import PrefectEventSubscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings
from tests.support.http_stub import HttpStub, Reply, http_stub
from tests.support.polling import until_async
from tests.support.prefect_server import PrefectServer

from prefect_slots.limits.client import Server
from prefect_slots.limits.events import Announcer, Releases
from prefect_slots.limits.gateway import Gateway
from prefect_slots.limits.outcome import OccupiedLease, TakenLimit

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("faults")]

LIFE = 60.0
_numbers = count()
STOCK = """
import json, sys
from prefect.concurrency.sync import concurrency
names, slots = json.loads(sys.argv[1])
with concurrency(names, occupy=slots):
    pass
"""


async def stock_holder(server: PrefectServer, names: list[str], slots: int) -> None:
    """Take and give back slots in a process that has only Prefect's own `concurrency()`."""
    command = [sys.executable, "-c", STOCK, json.dumps([names, slots])]
    await asyncio.to_thread(subprocess.run, command, env=server.env, check=True, timeout=60)


async def limits(gateway: Gateway, server: PrefectServer) -> list[str]:
    names = [f"{letter}:events-{next(_numbers)}" for letter in "ab"]
    async with server.client() as client:
        for name in names:
            for made in (name, gateway.mirror(name)):
                await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=made, limit=4))
    return names


def lease_on(name: str) -> OccupiedLease:
    return OccupiedLease(id=uuid4(), seconds=LIFE, limits=(TakenLimit(id=uuid4(), name=name, limit=4),))


class Ears:
    """What a listener of ours has been told."""

    def __init__(self, url: str, *names: str) -> None:
        self.connections = 0
        self.heard: list[str] = []
        self._releases = Releases(url, lambda: names)

    def _connected(self) -> None:
        self.connections += 1

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncGenerator[None]:
        task = asyncio.create_task(self._releases.run(self.heard.extend, self._connected))
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def until_connected(self, times: int) -> None:
        async def connected() -> bool:
            return self.connections >= times

        await until_async(connected, 60, what=f"connection {times}")

    async def until_heard(self, name: str) -> None:
        async def heard() -> bool:
            return name in self.heard

        await until_async(heard, 60, what=f"the release of {name}")


@contextlib.asynccontextmanager
async def stock_subscriber(server: PrefectServer) -> AsyncGenerator[PrefectEventSubscriber]:
    about_limits = EventFilter(event=EventNameFilter(prefix=["prefect.concurrency-limit."]))
    async with asyncio.timeout(60), PrefectEventSubscriber(api_url=server.url, filter=about_limits) as subscriber:
        yield subscriber


async def told(subscriber: PrefectEventSubscriber, names: list[str], number: int) -> list[Event]:
    """Return the next `number` events about slots of `names`."""
    found: list[Event] = []
    async for event in subscriber:
        if event.resource.name in names and event.event.endswith(("acquired", "released")):
            found.append(event)
        if len(found) == number:
            break
    return found


def comparable(events: list[Event]) -> list[dict[str, Any]]:
    """Return events without what differs from call to call; `follows` by what it points to."""
    by_id = {event.id: f"{event.event} {event.resource.name}" for event in events}
    return sorted(
        (
            {
                **event.model_dump(mode="json", exclude={"id", "occurred", "received", "follows"}),
                "follows": event.follows and by_id[event.follows],
            }
            for event in events
        ),
        key=lambda event: (event["event"], event["resource"]["prefect.resource.name"]),
    )


def test_who_stops_listening_does_not_wait_for_a_server_that_does_nothing(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        connected = asyncio.Event()
        releases = Releases(prefect_server.url, lambda: ())
        listening = asyncio.create_task(releases.run(lambda _: None, connected.set))
        await asyncio.wait_for(connected.wait(), 60)
        with prefect_server.suspended():
            listening.cancel()
            done, _ = await asyncio.wait([listening], timeout=6)
        await asyncio.wait([listening], timeout=30)
        assert done == {listening}

    asyncio.run(scenario())


def test_a_release_by_prefect_s_own_concurrency_is_heard(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        gateway = await Gateway.open("L", url=prefect_server.url)
        wanted, other = await limits(gateway, prefect_server)
        await gateway.close()
        ears = Ears(prefect_server.url, wanted)
        async with ears.listening():
            await ears.until_connected(1)
            await stock_holder(prefect_server, [other], 1)
            await stock_holder(prefect_server, [wanted], 2)
            await ears.until_heard(wanted)
        assert ears.connections == 1
        assert other not in ears.heard

    asyncio.run(scenario())


def test_what_we_tell_is_what_prefect_s_own_concurrency_tells(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        gateway = await Gateway.open("L", url=prefect_server.url)
        names = await limits(gateway, prefect_server)
        async with stock_subscriber(prefect_server) as subscriber:
            await stock_holder(prefect_server, names, 3)
            theirs = await told(subscriber, names, 4)

            announcer = Announcer(gateway.server)
            lease = await gateway.occupy(tuple(names), 3, uuid4(), LIFE)
            announcer.acquired(lease, 3)
            await gateway.release(lease.id)
            announcer.released(lease.id, tuple(names), 3)
            await announcer.close()
            ours = await told(subscriber, names, 4)
        await gateway.close()
        assert comparable(ours) == comparable(theirs)

    asyncio.run(scenario())


def test_a_release_for_a_dead_process_names_limits_we_never_took(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        gateway = await Gateway.open("L", url=prefect_server.url)
        name, gone = (await limits(gateway, prefect_server))[0], "nowhere:events"
        announcer = Announcer(gateway.server)
        ears = Ears(prefect_server.url, name, gone)
        async with ears.listening():
            await ears.until_connected(1)
            announcer.released(uuid4(), (gone,), 1)
            announcer.released(None, (name,), 1)
            await ears.until_heard(name)
        await announcer.close()
        await gateway.close()
        assert gone not in ears.heard

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_restart_of_a_guarded_server_ends_neither_hearing_nor_telling(tmp_path: Path) -> None:
    async def scenario() -> None:
        name = "a:events-restarted"
        ears = Ears(server.url, name)
        async with ears.listening():  # before there is a server
            await asyncio.to_thread(server.start)
            await ears.until_connected(1)
            gateway = await Gateway.open("L", url=server.url)
            create = GlobalConcurrencyLimitCreate(name=name, limit=4)
            await gateway.server.ask(lambda client: client.create_global_concurrency_limit(create))
            announcer = Announcer(gateway.server)
            announcer.released(None, (name,), 1)
            await ears.until_heard(name)

            await asyncio.to_thread(server.stop)
            ears.heard.clear()
            announcer.released(None, (name,), 1)
            await asyncio.to_thread(server.start)
            await ears.until_connected(2)

            async def heard_again() -> bool:
                # A server that has only just started drops what it is told: nothing there listens yet.
                announcer.released(None, (name,), 1)
                return name in ears.heard

            await until_async(heard_again, 60, what="a release after the restart")
        await announcer.close()
        await gateway.close()

    server = PrefectServer(tmp_path, {"PREFECT_SERVER_API_AUTH_STRING": "us:secret"})
    try:
        with temporary_settings({PREFECT_API_AUTH_STRING: "us:secret"}):
            asyncio.run(scenario())
    finally:
        server.stop()


@pytest.mark.parametrize(
    "answer",
    [
        Reply(status=404),
        Reply(status=403, body={"detail": "no websockets here"}),
        Reply(status=200, body="a page"),
        Reply(fate="reset"),
    ],
    ids=["no route", "forbidden", "a web page", "reset"],
)
def test_a_server_that_refuses_websockets_is_asked_again_without_a_word(
    answer: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with http_stub() as stub:
            stub.script("GET /api/events/out", answer)
            ears = Ears(stub.url, "a")
            async with ears.listening():
                await until_asked(stub, "GET /api/events/out", 3)
            assert (ears.connections, ears.heard) == (0, [])

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    assert [record.message for record in caplog.records if record.name != "httpx"] == []


@pytest.mark.parametrize(
    "answer",
    [Reply(status=404), Reply(status=403, body={"detail": "no events here"}), Reply(status=500), Reply(fate="reset")],
    ids=["no route", "forbidden", "out of order", "reset"],
)
def test_a_server_that_takes_no_events_is_told_of_the_next_ones_without_a_word(
    answer: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with http_stub() as stub:
            stub.script("POST /api/events", answer)
            server = await Server.open(stub.url)
            announcer = Announcer(server)

            async def told_again() -> bool:
                announcer.acquired(lease_on("a"), 1)
                return stub.count("POST /api/events") >= 3

            await until_async(told_again, 60, what="the third request")
            await announcer.close()
            announcer.released(None, ("a",), 1)
            await announcer.close()
            await server.close()

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    assert [record.message for record in caplog.records if record.name != "httpx"] == []


def test_what_is_queued_goes_in_one_request_and_once_more_if_its_answer_is_lost() -> None:
    async def scenario() -> None:
        async with http_stub() as stub:
            stub.script("POST /api/events", Reply(fate="close"), Reply(status=204))
            server = await Server.open(stub.url)
            announcer = Announcer(server)
            for _ in range(20):
                announcer.acquired(lease_on("a"), 1)
            await until_asked(stub, "POST /api/events", 2)
            await announcer.close()
            await server.close()
            first, again = ([event["id"] for event in json.loads(body)] for body in stub.bodies["POST /api/events"])
            assert first == again
            assert len(set(first)) == 20

    asyncio.run(scenario())


def test_a_server_that_hangs_holds_nobody_up_at_exit() -> None:
    async def scenario() -> None:
        async with http_stub() as stub:
            stub.script("POST /api/events", Reply(fate="hang"))
            server = await Server.open(stub.url)
            announcer = Announcer(server)
            announcer.acquired(lease_on("a"), 1)
            await until_asked(stub, "POST /api/events", 1)
            await announcer.close()
            await server.close()
            assert not [task for task in asyncio.all_tasks() if "Announcer" in repr(task)]

    asyncio.run(scenario())


async def until_asked(stub: HttpStub, request: str, times: int) -> None:
    async def asked() -> bool:
        return stub.count(request) >= times

    await until_async(asked, 60, what=f"{request}, {times} times")

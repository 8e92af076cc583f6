"""What a look at licence seats needs of a Prefect server: what other machines hold, where they are, and an alarm."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from prefect.events import Event
from prefect.events.clients import PrefectEventSubscriber
from prefect.events.filters import EventFilter, EventNameFilter
from tests.support.boxes import Box
from tests.support.prefect_server import PrefectServer
from tests.support.processes import member
from tests.support.programs import started

from prefect_slots.leases import foreign
from prefect_slots.leases.session import ServerSession
from prefect_slots.ledger import registry
from prefect_slots.ledger.store import Ledger
from prefect_slots.limits.gateway import Gateway
from prefect_slots.model.finding import Stale
from prefect_slots.settings import Settings, load_settings

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("faults")]

CONFIG = """
[settings]
worker = "{name}"
[gpus]
detect = false
[license.SEATS]
seats = 5
"""


@pytest.fixture
def boxes(prefect_server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Box, Box]:
    """Two machines on two hosts that share a licence of five seats."""
    seats = f"shared-{uuid.uuid4().hex[:8]}"
    made: list[Box] = []
    for host in (socket.gethostname(), "Elsewhere.example.com"):
        folder = tmp_path / host
        folder.mkdir()
        made.append(Box(folder, prefect_server.url, CONFIG.replace("SEATS", seats)))
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        made[-1].register()
        monkeypatch.undo()
    return made[0], made[1]


def seats_of(box: Box) -> str:
    return next(license.feature for license in load_settings(env=box.env).declarations.licenses)


@contextlib.asynccontextmanager
async def standing_of(ledger: Ledger, url: str) -> AsyncGenerator[ServerSession]:
    standing = await ServerSession.open(ledger, registry.Known(), Settings(), url)
    try:
        yield standing
    finally:
        await standing.close()


@pytest.mark.slow
def test_what_other_machines_hold_of_the_fleets_seats_and_where_they_are_is_known(boxes: tuple[Box, Box]):
    here, there = boxes
    name = seats_of(here)

    async def ask() -> None:
        assert here.url is not None
        with member(here.state) as (ledger, _):
            async with standing_of(ledger, here.url) as standing:
                fleet = await standing.fleet({f"license.{name}"})
        assert fleet.counted == {f"license.{name}": 3}
        assert fleet.hosts is not None
        assert "elsewhere" in fleet.hosts
        assert socket.gethostname().lower() not in fleet.hosts

    with started(here) as start_here, started(there) as start_there:
        start_here().enter(license={name: 1})
        start_there().enter(license={name: 3})
        asyncio.run(ask())


def test_other_machines_seats_are_counted_here_only_while_people_outside_use_seats_too(boxes: tuple[Box, Box]):
    here, there = boxes
    name = seats_of(here)
    resource = f"license.{name}"

    async def count() -> int:
        with member(here.state) as (ledger, _):
            gateway = await Gateway.open(ledger.id, url=here.url)
            try:
                await foreign.note_foreign_use(ledger, gateway, {resource})
            finally:
                await gateway.close()
            (row,) = ledger.read(lambda tx: tx.all("SELECT foreign_use FROM cell WHERE resource=?", resource))
            return row[0]

    def outsiders(seats: int) -> None:
        with member(here.state) as (ledger, _):
            ledger.transact(lambda tx: tx.run("UPDATE cell SET outside=? WHERE resource=?", seats, resource))

    with started(there) as start_there:
        start_there().enter(license={name: 3})
        assert asyncio.run(count()) == 0
        outsiders(1)
        assert asyncio.run(count()) == 3


async def _first(subscriber: PrefectEventSubscriber, machine: str) -> AsyncGenerator[Event]:
    async for event in subscriber:
        if event.resource["machine"] == machine:
            yield event
            return


def test_an_alarm_is_an_event_that_automations_can_hear(boxes: tuple[Box, Box]):
    here, _ = boxes
    stale = Stale(machine=here.name, resource="license.aa", seen_at=1000.0, misses=3, why="it hangs")

    async def hear() -> None:
        assert here.url is not None
        only = EventFilter(event=EventNameFilter(name=["prefect-slots.resource.stale"]))
        with member(here.state) as (ledger, _):
            async with (
                asyncio.timeout(60),
                PrefectEventSubscriber(api_url=here.url, filter=only) as subscriber,
                standing_of(ledger, here.url) as standing,
            ):
                standing.tell_stale(stale)
                heard = [event async for event in _first(subscriber, here.name)]
        (event,) = heard
        assert event.resource.name == "license.aa"
        assert event.resource.id == f"prefect-slots.resource.{here.name}.license.aa"
        assert event.payload == {"seen_at": "1970-01-01T00:16:40+00:00", "misses": 3, "why": "it hangs"}

    asyncio.run(hear())

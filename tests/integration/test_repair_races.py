"""Repair while others take and give back: what changes between its reading and its judging is nobody's leak."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from tests.support.boxes import Box, line, tell
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer
from tests.support.processes import member
from tests.support.programs import Start, started

from prefect_slots.leases.reconcile import Repaired, reconcile
from prefect_slots.limits.client import Server
from prefect_slots.limits.gateway import Gateway, Late
from prefect_slots.limits.outcome import ExistingLimit
from prefect_slots.system import clock

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("faults")]


class Reader(Gateway):
    """A gateway on which something happens just after a limit was read, or just before one is added to."""

    def __init__(self, server: Server, ledger_id: str) -> None:
        super().__init__(server, ledger_id)
        self.when: dict[str, Callable[[], None]] = {}

    async def read(self, name: str) -> ExistingLimit | None:
        """Read, then let happen what is to happen after that name was read."""
        found = await super().read(name)
        await self._happens(f"read {name}")
        return found

    async def add(self, limit: str, slots: int, *, late: Late[None] | None = None) -> None:
        """Let happen what is to happen before that limit is added to, then add."""
        await self._happens(f"add {limit}")
        await super().add(limit, slots, late=late)

    async def _happens(self, moment: str) -> None:
        happens = self.when.pop(moment, None)
        if happens is not None:
            await asyncio.to_thread(happens)


@pytest.fixture
def box(prefect_server: PrefectServer, tmp_path: Path) -> Box:
    made = Box(tmp_path, prefect_server.url)
    # Nothing is compared by itself meanwhile.
    made.env["PREFECT_SLOTS_REFRESH_SECONDS"] = "3000"
    made.register()
    return made


@pytest.fixture
def start(box: Box) -> Iterator[Start]:
    """Starts programs on the machine, and ends them with the test."""
    with started(box) as start:
        yield start


def repair(box: Box, happens: dict[str, Callable[[], None]]) -> tuple[Repaired, ...]:
    """Repair once; something happens in the middle of it, at a moment: `read LIMIT` or `add LIMIT`."""

    async def work() -> tuple[Repaired, ...]:
        with member(box.state) as (ledger, _):
            assert box.url is not None
            gateway = Reader(await Server.open(box.url), ledger.id)
            gateway.when = dict(happens)
            gives_up = clock.boot_clock() + 30
            try:
                done = None
                # A leader that has just begun compares everything once, and keeps others from repairing meanwhile.
                while done is None or (happens and len(gateway.when) == len(happens)):
                    assert clock.boot_clock() < gives_up, "it was to happen"
                    done = await reconcile(ledger, gateway, answering_since=clock.boot_clock() - 1000)
                assert not gateway.when, "all of it was to happen"
                return done
            finally:
                await gateway.close()

    return asyncio.run(work())


def used_by_others(box: Box, limit: str, method: str) -> None:
    """Take (`increment`) or give back (`decrement`) one slot as another machine of the fleet does."""
    body = {"names": [limit], "slots": 1}
    box.send("POST", f"v2/concurrency_limits/{method}", body)


# Stops itself when it has freed its cells and not yet told the server.
STOPS_BEFORE_RELEASING = """
import os, signal, sys
from prefect_slots import requires
from prefect_slots.ledger import failpoints
from prefect_slots.ledger.failpoints import Point
def stop(point):
    if point is Point.CELLS_FREED:
        failpoints.install(None)
        os.kill(os.getpid(), signal.SIGSTOP)
with requires(license={sys.argv[1]: 1}):
    print(1, flush=True)
    sys.stdin.readline()
    failpoints.install(stop)
sys.stdin.readline()
"""


def test_what_is_being_given_back_is_not_taken_off_twice(box: Box) -> None:
    holder = box.start(STOPS_BEFORE_RELEASING, box.matlab)
    try:
        line(holder)
        limit = f"license:{box.matlab}"
        used_by_others(box, limit, "increment")

        def free() -> None:
            tell(holder)
            until(lambda: box.rows("lease WHERE state='releasing'") == 1, what="its release")
            until(lambda: psutil.Process(holder.pid).status() == psutil.STATUS_STOPPED, what="its stop")

        assert repair(box, {f"read {limit}:{box.name}": free}) == ()
        holder.send_signal(signal.SIGCONT)
        until(lambda: not box.in_use(), what="the holder's end")
        assert box.active() == {limit: 1}, "the other machine's seat is still counted"
        used_by_others(box, limit, "decrement")
    finally:
        holder.kill()
        holder.communicate()


def test_nothing_is_taken_while_it_is_counted_what_is_held(box: Box, start: Start) -> None:
    holder, asker = start(), start()
    for program in (holder, asker):
        program.enter(cpus=1)
        program.leave()
    box.assert_nothing_is_left()
    limit = f"license:{box.matlab}"
    holder.enter(license={box.matlab: 1})

    def ask() -> None:
        asker.ask(license={box.matlab: 1})
        gives_up = clock.boot_clock() + 3
        until(lambda: box.rows("lease WHERE state IN ('intent', 'lease')") > 1 or clock.boot_clock() > gives_up)

    assert repair(box, {f"read {limit}:{box.name}": ask}) == ()
    assert "granted" in asker.answer()
    assert box.rows("lease WHERE state='lease'") == 2
    assert box.limits() == {limit: 2, f"{limit}:{box.name}": 2}
    for program in (holder, asker):
        program.leave()
    box.assert_nothing_is_left()


def test_what_is_given_back_while_it_is_added_is_not_counted_for_ever(box: Box, start: Start) -> None:
    holder = start()
    holder.enter(license={f"ansys-{box.name}": 1})
    limit = f"license:ansys-{box.name}:{box.name}"

    def edit() -> None:
        box.send("PATCH", f"v2/concurrency_limits/{limit}", {"active_slots": 0})

    def leave() -> None:
        holder.leave()
        gives_up = clock.boot_clock() + 2
        until(lambda: box.rows("lease WHERE state='releasing'") == 0 or clock.boot_clock() > gives_up)

    assert repair(box, {f"read cpus:{box.name}": edit, f"add {limit}": leave}) == (Repaired(limit=limit, change=1),)
    box.assert_nothing_is_left()


@pytest.mark.parametrize("seconds_past", [5, 100])
def test_what_the_server_is_about_to_take_back_itself_is_left_to_it(box: Box, seconds_past: int) -> None:
    # As a lapsed lease looks before the server's own service comes to it: still counted, and listed no more.
    limit = f"license:{box.matlab}"
    with member(box.state) as (ledger, _):
        mirror = f"tag:{limit}@{ledger.id}"
        body = {"names": [limit, mirror], "slots": 1}
        box.send("POST", "v2/concurrency_limits/increment", body)
        row = "INSERT INTO lease (id, held, owner, names, weight, fleet, state, sent_at, deadline) VALUES "
        values = (str(uuid4()), "", "", json.dumps([limit]), 1, 1, "lapsed", 0.0, clock.boot_clock() - seconds_past)
        ledger.transact(lambda tx: tx.run(f"{row}(?, ?, ?, ?, ?, ?, ?, ?, ?)", *values))
    done = repair(box, {})
    if seconds_past == 5:
        assert done == ()
        assert box.active() == {limit: 1, mirror: 1}, "subtracted now, it would be subtracted twice"
    else:
        assert done == (Repaired(limit=limit, change=-1),)
        assert box.active() == {}

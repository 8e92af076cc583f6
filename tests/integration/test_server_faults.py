"""A server that is restarted, away, or answers nonsense while slots are held: tasks go on, and its counts come true.

In the end ledger and server are at zero, and nobody did anything for it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.boxes import Box
from tests.support.moody_proxy import moody_proxy
from tests.support.polling import until
from tests.support.postgres import Postgres, has_postgres
from tests.support.prefect_server import PrefectServer, send
from tests.support.programs import Start, started

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("faults")]


ON_POSTGRES = [
    pytest.mark.slow,
    pytest.mark.postgres,
    pytest.mark.skipif(not has_postgres(), reason="PostgreSQL's programs are not installed"),
]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=ON_POSTGRES)])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[PrefectServer]:
    """A server that a test may stop and start: its leases are in memory, as they are by default."""
    home = tmp_path / "server"
    home.mkdir()
    with ExitStack() as stack:
        extra: dict[str, str] = {}
        if request.param == "postgres":
            postgres = Postgres()
            stack.callback(postgres.stop)
            postgres.start()
            extra = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": postgres.url}
        made = PrefectServer(home, extra)
        stack.callback(made.stop)
        made.start()
        yield made


@pytest.fixture
def box(server: PrefectServer, tmp_path: Path) -> Box:
    made = Box(tmp_path, server.url)
    made.env["PREFECT_SLOTS_REFRESH_SECONDS"] = "2"
    made.register()
    return made


@pytest.fixture
def start(box: Box) -> Iterator[Start]:
    """Starts programs on the machine, and ends them with the test."""
    with started(box) as start:
        yield start


@pytest.mark.slow
def test_after_a_restart_the_counts_come_true_by_themselves(server: PrefectServer, box: Box, start: Start) -> None:
    holder, bystander = start(), start()
    holder.enter(scanner=1, license={box.matlab: 2})
    bystander.enter(cpus=1)
    before = box.active()
    assert before[f"scanner:{box.name}"] == 1
    server.stop()
    server.start()
    assert box.active() == before, "the server has forgotten the leases, and still counts their slots"
    # What it counts is still held: nothing may be taken off, and nobody else may have it.
    waiter = start()
    waiter.ask(scanner=1)
    until(lambda: box.rows("ticket") == 1, 20, what="the waiter in the queue")
    holder.leave()
    assert "granted" in waiter.answer()
    until(lambda: box.limits() == {f"scanner:{box.name}": 1, f"cpus:{box.name}": 1}, 40, what="what is really held")
    for program in (waiter, bystander):
        program.leave()
    box.assert_nothing_is_left(40)


@pytest.mark.slow
def test_while_the_server_is_away_the_machine_s_own_goes_on_and_the_fleet_s_waits(
    server: PrefectServer, box: Box, start: Start
) -> None:
    first, second, third = start(), start(), start()
    for program in (first, second):  # so that both have met the server
        program.enter(cpus=1)
        program.leave()
    first.enter(scanner=1)
    server.stop()
    second.enter(gpu_mem=16, cpus=1)
    third.ask(scanner=1)
    until(lambda: box.rows("ticket") == 1, 20, what="the third in the queue")
    first.leave()
    assert "granted" in third.answer(), "the ledger decides for this machine, never two at once"
    first.ask(license={box.matlab: 1})
    until(lambda: box.rows("ticket") == 1, 20, what="who wants a seat of the fleet waits")
    server.start()
    assert "granted" in first.answer()
    held = {
        f"scanner:{box.name}": 1,
        f"gpu-mem:{box.name}": 16384,
        f"gpu-mem:{box.name}:0": 16384,
        f"cpus:{box.name}": 1,
        f"license:{box.matlab}": 1,
        f"license:{box.matlab}:{box.name}": 1,
    }
    until(lambda: box.limits() == held, 40, what="what is held, on the server again")
    for program in (first, second, third):
        program.leave()
    box.assert_nothing_is_left(40)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["wait", "fail"])
def test_a_machine_may_rather_wait_or_fail_while_the_server_is_away(
    server: PrefectServer, box: Box, start: Start, policy: str
) -> None:
    box.env["PREFECT_SLOTS_WHEN_SERVER_IS_AWAY"] = policy
    program = start()
    program.enter(cpus=1)
    program.leave()
    server.stop()
    program.ask(cpus=1)
    if policy == "fail":
        assert program.answer()["error"] == "ServerUnreachable"
        server.start()
    else:
        until(lambda: box.rows("ticket") == 1, 20, what="it in the queue")
        server.start()
        assert "granted" in program.answer()
        program.leave()
    box.assert_nothing_is_left(40)


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["keep", "fail"])
def test_a_lease_that_others_could_take_is_taken_again(
    server: PrefectServer, box: Box, start: Start, kept: str
) -> None:
    box.env["PREFECT_SLOTS_ON_LEASE_LOST"] = kept
    program, bystander = start(), start()
    program.enter(scanner=1)
    bystander.enter(cpus=1)
    held = box.active()
    server.stop()
    server.start()
    # A new server that has lost its leases and was then set to zero by hand counts nothing for the holder.
    for name in held:
        send(server.url, "PATCH", f"v2/concurrency_limits/{name}", {"active_slots": 0})
    # On the mirrors too, which are set to zero while the limits are being repaired already.
    until(lambda: box.active() == held, 40, what="what is held counted again")
    answer = program.leave()
    assert answer == {"left": True} if kept == "keep" else answer["error"] == "LeaseLost"
    bystander.leave()
    box.assert_nothing_is_left(40)


@pytest.mark.slow
def test_counts_that_somebody_edits_come_true_again(server: PrefectServer, box: Box, start: Start) -> None:
    program = start()
    program.enter(gpu_mem=16, scanner=1)
    truth = box.active()
    limit = f"gpu-mem:{box.name}"
    for wrong in (0, 20000):
        for name in (limit, next(name for name in truth if name.startswith(f"tag:{limit}@"))):
            send(server.url, "PATCH", f"v2/concurrency_limits/{name}", {"active_slots": wrong})
            if wrong > truth[name] and name == limit:
                # Who has taken more is not to be known; it counts as in use by others until they give it back.
                send(server.url, "PATCH", f"v2/concurrency_limits/{name}", {"active_slots": truth[name]})
            else:
                until(lambda: box.active() == truth, 30, what=f"the truth after {name} was set to {wrong}")
    program.leave()
    box.assert_nothing_is_left(40)


@pytest.mark.slow
def test_what_others_use_of_a_machine_s_limits_is_left_to_them(server: PrefectServer, box: Box, start: Start) -> None:
    program = start()
    program.enter(cpus=1)
    taken = {"names": [f"gpu-mem:{box.name}"], "slots": 30000, "mode": "concurrency"}
    assert send(server.url, "POST", "v2/concurrency_limits/increment", taken).status_code == 200
    waiter = start()
    waiter.ask(gpu_mem=20)
    until(lambda: box.rows("ticket") == 1, 20, what="it in the queue")
    until(lambda: box.rows("cell WHERE foreign_use > 0") > 0, 20, what="the others' use in the ledger")
    assert box.rows("lease WHERE state='lease'") == 1, "it waits holding nothing"
    small = start()
    small.enter(gpu_mem=8)
    send(server.url, "POST", "v2/concurrency_limits/decrement", taken)
    assert "granted" in waiter.answer()
    for each in (program, waiter, small):
        each.leave()
    box.assert_nothing_is_left(40)


@pytest.mark.slow
def test_a_killed_holder_s_slots_are_free_though_the_server_forgot_its_leases(
    server: PrefectServer, box: Box, start: Start
) -> None:
    holder, bystander = start(), start()
    holder.enter(scanner=1)
    bystander.enter(cpus=1)
    server.stop()
    holder.kill()
    server.start()
    began = time.monotonic()
    bystander.enter(scanner=1)
    bystander.leave()
    box.assert_nothing_is_left(60)
    assert time.monotonic() - began < 60, "no lease's life had to pass"


@pytest.mark.slow
@pytest.mark.parametrize("status", [503, 401, 500])
def test_a_server_that_refuses_everything_for_a_while_costs_nothing(
    server: PrefectServer, box: Box, start: Start, status: int
) -> None:
    with moody_proxy(server.url) as (url, mood):
        box.env["PREFECT_API_URL"] = url
        register_at(box, url)
        holder, other = start(), start()
        holder.enter(scanner=1, gpu_mem=8)
        other.enter(cpus=1)
        mood.status = status
        if status == 503:
            mood.body = b'{"exception_message": "Service Unavailable"}'
        assert holder.leave() == {"left": True}
        until(lambda: mood.refused > 2, 30, what="it was refused")
        if status == 503:
            holder.enter(scanner=1)
        elif status == 401:
            holder.ask(scanner=1)
            assert holder.answer()["error"] == "ServerRefused"
        mood.status = 0
        for program in (holder, other):
            program.leave()
        holder.enter(scanner=1, cpus=2)
        holder.leave()
        box.assert_nothing_is_left(60)


@pytest.mark.slow
def test_a_slow_server_is_waited_for(server: PrefectServer, box: Box, start: Start) -> None:
    with moody_proxy(server.url) as (url, mood):
        box.env["PREFECT_API_URL"] = url
        register_at(box, url)
        first, second = start(), start()
        first.enter(scanner=1)
        mood.delay = 5.0
        second.ask(scanner=1)
        until(lambda: box.rows("ticket") == 1, 20, what="the second in the queue")
        first.leave()
        assert "granted" in second.answer(), "a lease handed over asks nobody"
        second.leave()
        first.enter(gpu_mem=8)
        first.leave()
        mood.delay = 0.0
        box.assert_nothing_is_left(60)


def register_at(box: Box, url: str) -> None:
    """Register once more, at another address of the same server."""
    real, box.url = box.url, url
    box.register()
    box.url = real


@pytest.mark.slow
def test_a_stopped_leader_s_work_is_taken_over(server: PrefectServer, box: Box, start: Start) -> None:
    first = start()
    first.enter(cpus=1)
    until(lambda: box.rows("role WHERE name='leader'") == 1, 20, what="the first looks after the machine")
    second = start()
    second.enter(cpus=1)
    first.process.send_signal(signal.SIGSTOP)
    try:
        taken = {"names": [f"license:{box.matlab}"], "slots": 2, "mode": "concurrency"}
        send(server.url, "POST", "v2/concurrency_limits/increment", taken)
        second.ask(license={box.matlab: 1})
        until(lambda: box.rows("ticket WHERE blocked_on IS NOT NULL") == 1, 20, what="it waits for the server")
        send(server.url, "POST", "v2/concurrency_limits/decrement", taken)
        assert "granted" in second.answer()
    finally:
        first.process.send_signal(signal.SIGCONT)
    for program in (first, second):
        program.leave()
    box.assert_nothing_is_left(40)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_server_that_is_away_for_two_minutes(server: PrefectServer, box: Box, start: Start) -> None:
    holder, other = start(), start()
    holder.enter(scanner=1, license={box.matlab: 1})
    other.enter(cpus=1)
    other.leave()
    server.stop()
    until_away = time.monotonic() + 120
    while time.monotonic() < until_away:
        other.enter(gpu_mem=16, cpus=1)
        other.leave()
    server.start()
    held = {f"scanner:{box.name}": 1, f"license:{box.matlab}": 1, f"license:{box.matlab}:{box.name}": 1}
    until(lambda: box.limits() == held, 60, what="what is really held")
    holder.leave()
    box.assert_nothing_is_left(60)

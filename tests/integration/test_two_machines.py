"""Two machines and one server: floating seats are never exceeded, each machine's own stay its own, neither starves."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.integration.test_stress import overlaps
from tests.support.boxes import Box, line
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer
from tests.support.programs import Start, started

from prefect_slots.cli.machine import open_ledger
from prefect_slots.leases.session import MAX_FAIR_RETRIES
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.settings import load_settings

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("faults")]

CONFIG = """
[settings]
worker = "{name}"
[gpus]
detect = false
[[gpus.card]]
uuid = "GPU-{name}"
memory = "24GiB"
[host]
cpus = 4
mem = "8GiB"
[license.SEATS]
seats = 3
"""

# Asks for seats and memory of a card at random until its time is up; writes down what it holds.
LOOP = """
import json, os, random, sys, time
from prefect_slots import requires
from tests.support.stress import clock, recorded
seed, seconds, path, seats = sys.argv[1:5]
chance, record = random.Random(int(seed)), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
with requires(cpus=1):
    pass
until, grants = clock() + float(seconds), 0
while clock() < until:
    with requires(license={seats: chance.choice([1, 1, 2])}, gpu_mem=chance.choice([8, 24])) as grant:
        with recorded(record, grant):
            time.sleep(chance.expovariate(50))
    grants += 1
print(grants)
"""


@pytest.fixture
def seats() -> str:
    """The name of a licence that both machines know and no other test."""
    return f"shared-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def boxes(prefect_server: PrefectServer, tmp_path: Path, seats: str) -> tuple[Box, Box]:
    made: list[Box] = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        made.append(Box(folder, prefect_server.url, CONFIG.replace("SEATS", seats)))
        made[-1].register()
    return made[0], made[1]


@pytest.fixture
def starts(boxes: tuple[Box, Box]) -> Iterator[tuple[Start, Start]]:
    with started(boxes[0]) as first, started(boxes[1]) as second:
        yield first, second


def test_a_seat_that_comes_free_on_one_machine_is_used_on_the_other(
    boxes: tuple[Box, Box], starts: tuple[Start, Start], seats: str
) -> None:
    here, there = starts[0](), starts[1]()
    here.enter(license={seats: 3})
    there.ask(license={seats: 2})
    until(lambda: boxes[1].rows("ticket WHERE blocked_on IS NOT NULL") == 1, 20, what="the other waits aside")
    assert boxes[1].rows("held") == 0, "it waits holding nothing"
    here.leave()
    assert "granted" in there.answer()
    there.leave()
    for box in boxes:
        box.assert_nothing_is_left()


@pytest.mark.slow
def test_who_waits_for_a_seat_keeps_no_card_from_those_who_need_none(
    boxes: tuple[Box, Box], starts: tuple[Start, Start], seats: str
) -> None:
    here, there, other = starts[0](), starts[1](), starts[1]()
    here.enter(license={seats: 3})
    there.ask(license={seats: 1}, gpu_mem=24)
    until(lambda: boxes[1].rows("ticket WHERE blocked_on IS NOT NULL") == 1, 20, what="it waits aside")
    other.enter(gpu_mem=24)
    here.leave()
    until(lambda: boxes[1].rows("ticket WHERE blocked_on IS NULL") == 1, 20, what="the seat is free, the card is not")
    other.leave()
    assert "granted" in there.answer()
    there.leave()
    for box in boxes:
        box.assert_nothing_is_left()


@pytest.mark.slow
def test_the_seats_are_never_exceeded_and_neither_machine_starves(
    boxes: tuple[Box, Box], tmp_path: Path, seats: str
) -> None:
    processes: dict[Path, subprocess.Popen[str]] = {}
    for number in range(4):
        box, record = boxes[number % 2], tmp_path / f"{number}.jsonl"
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "WORKER_ID"))} | box.env
        command = [sys.executable, "-c", LOOP, str(number), "12", str(record), seats]
        processes[record] = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    try:
        granted = [line(process) for process in processes.values()]
    finally:
        for process in processes.values():
            process.communicate(timeout=60)
    capacity = {f"GPU-{box.name}": 24576 for box in boxes} | {f"license.{seats}": 3}
    assert overlaps(dict.fromkeys(processes, float("inf")), capacity) == []
    shares = [granted[0] + granted[2], granted[1] + granted[3]]
    print(f"grants of each machine: {shares}")
    assert min(shares) > sum(shares) / 10, shares
    for box in boxes:
        box.assert_nothing_is_left(40)


def send_back_often(box: Box, ticket: str) -> None:
    """Make as if the server had sent a ticket back again and again, and its limit seemed to have room just now."""
    with closing(open_ledger(load_settings(env=box.env))) as ledger:

        def write(tx: Transaction) -> None:
            tx.run("UPDATE ticket SET refusals=? WHERE id=?", MAX_FAIR_RETRIES, ticket)
            tx.resume(ticket)

        ledger.transact(write)


@pytest.mark.slow
def test_who_was_sent_back_often_keeps_its_cells_but_only_one_of_a_machine(
    boxes: tuple[Box, Box], starts: tuple[Start, Start], seats: str
) -> None:
    here, there, other = starts[0](), starts[1](), starts[1]()
    machine = boxes[1]
    here.enter(license={seats: 3})
    there.ask(license={seats: 2}, gpu_mem=8)
    until(lambda: machine.rows("ticket WHERE blocked_on IS NOT NULL") == 1, 20, what="one waits aside")
    other.ask(license={seats: 1}, cpus=1)
    until(lambda: machine.rows("ticket WHERE blocked_on IS NOT NULL") == 2, 20, what="another, too")
    first, second = (row[0] for row in sorted(machine.dump()["ticket"], key=lambda row: row[1]))
    send_back_often(machine, first)
    until(lambda: machine.rows("role WHERE name='pessimist'") == 1, 20, what="the first insists")
    assert machine.rows(f"held WHERE id='{first}'") == 1, "it keeps its card"
    send_back_often(machine, second)
    until(lambda: machine.rows(f"ticket WHERE id='{second}' AND refusals > 10") == 1, 20, what="the other steps aside")
    assert machine.rows(f"held WHERE id='{first}'") == 1
    here.leave()
    assert "granted" in there.answer()
    there.leave()
    assert "granted" in other.answer()
    other.leave()
    until(lambda: machine.rows("role WHERE name='pessimist'") == 0, 20, what="nobody insists any more")
    for box in boxes:
        box.assert_nothing_is_left()

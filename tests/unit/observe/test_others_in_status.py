"""What others use, in `status`: what the server counts and what is seen beyond that, its age, and what is not known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.support.processes import member

from prefect_slots.cli.tables import status_view
from prefect_slots.ledger import registry, usage
from prefect_slots.ledger.store import Ledger
from prefect_slots.ledger.usage import Outside, Spent
from prefect_slots.model.book import Asked, CellId, Shape, Ticket
from prefect_slots.model.request import Request
from prefect_slots.model.requirement import declare
from prefect_slots.model.resource import Cell, Inventory, Resource
from prefect_slots.observe.status import machine_status

CARD = CellId("gpu_mem", 0)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    cards = Resource(name="gpu_mem", unit="MiB", cells=(Cell(key="GPU-a", capacity=24576),), origin="nvml")
    with member(tmp_path) as (ledger, _):
        ledger.transact(lambda tx: registry.register(tx, Inventory(resources=(cards,))))
        ledger.transact(lambda tx: tx.run("UPDATE cell SET foreign_use=1024"))
        yield ledger


def shown(ledger: Ledger) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(status_view(machine_status(ledger)))
    return capture.get()


def see(ledger: Ledger, seen: Outside, blocked: int) -> None:
    ledger.transact(lambda tx: usage.write_outside(tx, seen))
    ledger.transact(lambda tx: registry.block(tx, CARD, blocked))


def test_both_witnesses_make_less_free_and_are_told_apart(ledger: Ledger):
    see(ledger, Outside(cell=CARD, used=2048, seen_at=time.time()), 2048)
    (cell,) = machine_status(ledger).to_data()["cells"]
    assert (cell["foreign"], cell["free"], cell["capacity"]) == (3072, 21504, 24576)
    assert (cell["outside"]["used"], cell["outside"]["misses"], cell["outside"]["why"]) == (2048, 0, "")
    assert "3GiB" in shown(ledger)
    assert "ago" not in shown(ledger)


def test_what_is_not_told_any_more_is_shown_with_its_age(ledger: Ledger):
    see(ledger, Outside(cell=CARD, used=2048, seen_at=time.time() - 125, misses=4, why="GPU is lost"), 2048)
    assert "3GiB, 2m05s ago" in shown(ledger)
    (cell,) = machine_status(ledger).cells
    assert cell.outside is not None
    assert (cell.outside.misses, cell.outside.why) == (4, "GPU is lost")


def test_what_was_never_told_is_unknown_and_not_nothing(ledger: Ledger):
    see(ledger, Outside(cell=CARD, why="in this container process ids are not the host's"), 0)
    assert "1GiB and unknown" in shown(ledger)
    ledger.transact(lambda tx: tx.run("UPDATE cell SET foreign_use=0"))
    assert "unknown" in shown(ledger)
    assert "and unknown" not in shown(ledger)


def test_where_nothing_looks_what_the_server_counts_is_shown_alone(ledger: Ledger):
    (cell,) = machine_status(ledger).cells
    assert (cell.outside, cell.foreign) == (None, 1024)
    assert "1GiB" in shown(ledger)


def test_what_a_holder_uses_of_what_it_declared_is_shown_unless_it_is_not_its_own_alone(ledger: Ledger):
    shape = Shape(requirement=declare(gpu_mem=8), priority=0)
    ticket = Ticket(id="g", seq=1)
    ledger.transact(lambda tx: tx.apply(Asked(shape=shape, ticket=ticket), Request(label="infer (x.py:1)")))
    assert "infer (x.py:1) [8GiB]" in shown(ledger)
    seen = Spent(held="g", cell=CARD, label="infer", declared=8192, peak=3072, looks=1)
    ledger.transact(lambda tx: usage.write_spent(tx, seen))
    assert "infer (x.py:1) [8GiB, used at most 3GiB]" in shown(ledger)
    ledger.transact(lambda tx: usage.write_spent(tx, replace(seen, together=True)))
    assert "infer (x.py:1) [8GiB]" in shown(ledger)
    (cell,) = machine_status(ledger).to_data()["cells"]
    assert cell["holders"][0]["peak"] is None


def test_seats_are_shown_with_the_word_that_is_believed_and_its_age(ledger: Ledger):
    seats = Resource(name="license.aa", unit="seats", cells=(Cell(key="0", capacity=4),), origin="flexnet 27000@lic1")
    ledger.transact(lambda tx: registry.register(tx, Inventory(resources=(seats,), unknown=frozenset({"gpu_mem"}))))
    seen = Outside(cell=CellId("license.aa", 0), used=2, seen_at=time.time() - 3)
    ledger.transact(lambda tx: usage.write_outside(tx, seen))
    ledger.transact(lambda tx: registry.block(tx, seen.cell, 2))
    assert "2 seats (flexnet 27000@lic1, 3s ago)" in shown(ledger)


@pytest.mark.parametrize(
    ("misses", "doubt"),
    [(0, ""), (0, "; process ids are not the host's"), (2, "; no answer since: GPU is lost")],
)
def test_a_reason_names_the_witness_the_age_of_its_word_and_its_doubt(ledger: Ledger, misses: int, doubt: str):
    why = doubt.removeprefix("; ").removeprefix("no answer since: ")
    see(ledger, Outside(cell=CARD, used=20480, seen_at=time.time() - 65, misses=misses, why=why), 20480)
    shape = Shape(requirement=declare(gpu_mem=8), priority=0)
    ticket = Ticket(id="g", seq=1)
    ledger.transact(lambda tx: tx.apply(Asked(shape=shape, ticket=ticket), Request(label="infer")))
    (waiter,) = machine_status(ledger).waiting
    assert waiter.reason.endswith(f"; others use 20GiB of gpu 0 (nvml, 1m05s ago{doubt})")

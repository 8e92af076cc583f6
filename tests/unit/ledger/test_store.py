"""The ledger's file: transactions that are all or nothing, and a file that is no longer the one that was opened."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from tests.support.polling import until
from tests.support.processes import member
from tests.unit.ledger.members import INVENTORY, Member, Pair

from prefect_slots.errors import LedgerUnreadable
from prefect_slots.ledger import registry, schema
from prefect_slots.ledger.store import Ledger
from prefect_slots.ledger.transaction import TicketState, Transaction
from prefect_slots.model.book import Left
from prefect_slots.scheduling.decide import decide


def set_mark(tx: Transaction) -> None:
    tx.set_meta("mark", "set")


def mark(ledger: Ledger) -> str | None:
    return ledger.read(lambda tx: tx.meta("mark"))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_takes_everything_back(members: Pair, error: type[BaseException]) -> None:
    one, other = members

    def fail(tx: Transaction) -> None:
        set_mark(tx)
        raise error

    with pytest.raises(error):
        one.ledger.transact(fail)
    assert mark(one.ledger) is None
    other.ledger.transact(set_mark)
    assert mark(one.ledger) == "set", "the failed transaction has let go of the file"


def test_a_rehearsal_tells_what_would_be_and_writes_nothing(members: Pair) -> None:
    one, other = members
    held = one.ask(matlab=2)
    waits = other.ask(matlab=1)

    def end(tx: Transaction) -> TicketState:
        tx.leave(held)
        set_mark(tx)
        return tx.state(waits)

    assert one.ledger.rehearse(end) is TicketState.HELD
    assert other.state(waits) is TicketState.WAITING
    assert one.state(held) is TicketState.HELD
    assert mark(one.ledger) is None


def test_a_read_sees_one_state_while_others_write(members: Pair) -> None:
    one, other = members

    def twice(tx: Transaction) -> tuple[str | None, str | None]:
        before = tx.meta("mark")
        other.ledger.transact(set_mark)
        return before, tx.meta("mark")

    assert one.ledger.read(twice) == (None, None)
    assert mark(one.ledger) == "set"


def test_wakes_are_sent_after_the_commit_and_own_tickets_are_told_directly(members: Pair) -> None:
    one, other = members
    told: list[str] = []
    seen: list[TicketState] = []
    one.ledger.on_settled = lambda tickets: (told.extend(tickets), seen.append(other.state(tickets[0])))[0]
    granted = one.ask(matlab=2)
    waits = one.ask(matlab=1)
    assert told == [granted]
    assert seen == [TicketState.HELD], "another connection sees what this one is told of"
    one.leave(granted)
    assert told == [granted, waits]


def test_nobody_is_told_of_what_was_taken_back(members: Pair) -> None:
    one, _ = members
    told: list[str] = []
    held = one.ask(matlab=2)
    one.ask(matlab=1)
    one.ledger.on_settled = told.extend
    one.ledger.rehearse(lambda tx: tx.leave(held))
    with pytest.raises(LookupError):
        one.ledger.transact(lambda tx: (tx.leave(held), tx.grant("unknown")))
    assert told == []


@pytest.mark.parametrize("how", ["deleted", "replaced"])
@pytest.mark.parametrize("access", ["transact", "rehearse", "read"])
def test_a_folder_deleted_or_replaced_while_in_use_is_no_ledger_any_more(
    state: Path, members: Pair, how: str, access: str
) -> None:
    one, _ = members
    shutil.rmtree(state)
    if how == "replaced":
        with member(state) as (ledger, _):
            ledger.transact(lambda tx: registry.register(tx, INVENTORY))
    with pytest.raises(LedgerUnreadable, match="deleted or replaced"):
        getattr(one.ledger, access)(lambda tx: tx.meta("seq"))


def test_a_ledger_that_another_keeps_locked_is_told(members: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = members
    one.ledger.transact(lambda tx: tx.one("PRAGMA busy_timeout=50"))
    with pytest.raises(LedgerUnreadable, match=r"locked.*stopped"):
        other.ledger.transact(lambda _: one.ledger.transact(set_mark))
    one.ledger.transact(set_mark)


def test_a_page_damaged_while_in_use_is_told(state: Path) -> None:
    with member(state) as (ledger, _):
        ledger.transact(lambda tx: registry.register(tx, INVENTORY))
        ledger.read(lambda tx: tx.one("PRAGMA wal_checkpoint(TRUNCATE)"))
        pages = (state / schema.FILE).stat().st_size // 4096
    damaged = bytearray((state / schema.FILE).read_bytes())
    for page in range(1, pages):
        damaged[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    (state / schema.FILE).write_bytes(damaged)
    with pytest.raises(LedgerUnreadable, match=r"malformed.*move the file away"):
        Ledger(state, partial(decide, max_overtakes=1))


# A full disk


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of three megabytes."""
    with tempfile.TemporaryDirectory() as place:
        command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a small file system")
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


def fill(disk: Path) -> None:
    for size in (65536, 4096, 1):
        with (disk / f"filler-{size}").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"x" * size)
            except OSError:
                continue


def test_on_a_full_disk_nothing_is_granted_but_everything_can_be_given_back(small_disk: Path) -> None:
    with member(small_disk / "state") as (ledger, owner):
        one = Member(ledger, owner)
        ledger.transact(lambda tx: registry.register(tx, INVENTORY))
        held = [one.ask(matlab=1), one.ask(matlab=1)]
        waits = one.ask(matlab=1)
        fill(small_disk)
        with pytest.raises(LedgerUnreadable, match=r"full.*[Mm]ake room"):
            [one.ask(matlab=1) for _ in range(200)]
        for ticket in held:
            ledger.transact(lambda tx, ticket=ticket: tx.leave(ticket), frees=True)
            assert one.state(ticket) is TicketState.GONE
        assert one.state(waits) is TicketState.HELD


def test_the_ballast_is_laid_in_again_once_there_is_room(small_disk: Path) -> None:
    with member(small_disk / "state") as (ledger, _):
        ballast = small_disk / "state" / schema.BALLAST
        assert ballast.stat().st_size == schema.BALLAST_BYTES
        fill(small_disk)
        with pytest.raises(LedgerUnreadable):
            ledger.transact(lambda tx: [tx.set_meta(f"key-{n}", "x" * 1000) for n in range(500)])
        ledger.transact(lambda tx: [tx.set_meta(f"key-{n}", "x" * 1000) for n in range(100)], frees=True)
        assert not ballast.exists()
    for filler in small_disk.glob("filler-*"):
        filler.unlink()
    with member(small_disk / "state"):
        assert ballast.stat().st_size == schema.BALLAST_BYTES


def test_a_transaction_that_fails_at_its_commit_leaves_the_connection_usable(members: Pair) -> None:
    one, other = members
    one.ledger.transact(lambda tx: tx.one("PRAGMA busy_timeout=0"))

    def break_off(tx: Transaction) -> None:
        # A deferred foreign key is checked by COMMIT itself.
        tx.run("PRAGMA defer_foreign_keys=ON")
        tx.run("INSERT INTO holding VALUES ('nobody', 'gpu_mem', 0, 1)")

    with pytest.raises(LedgerUnreadable, match="FOREIGN KEY"):
        one.ledger.transact(break_off)
    one.ledger.transact(set_mark)
    assert mark(other.ledger) == "set"
    assert one.count("holding") == 0


def test_an_error_that_has_ended_the_transaction_already_is_told_as_it_is(members: Pair) -> None:
    one, other = members

    def rolled_back(tx: Transaction) -> None:
        set_mark(tx)
        tx.run("INSERT OR ROLLBACK INTO meta VALUES ('seq', '9')")

    with pytest.raises(LedgerUnreadable, match="UNIQUE"):
        one.ledger.transact(rolled_back)
    assert mark(other.ledger) is None


def test_an_unfinished_transaction_dies_with_its_connection(state: Path, members: Pair) -> None:
    one, _ = members
    with closing(sqlite3.connect(state / schema.FILE, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        stranger.execute("DELETE FROM cell")
    until(lambda: one.count("cell") == 3)
    one.ledger.transact(lambda tx: tx.apply(Left(ticket="nobody")))

"""The locks of an open transaction stay: closing the file by any way but SQLite's own would drop them all unnoticed."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.unit.ledger.members import Pair

from prefect_slots.ledger import schema
from prefect_slots.ledger.folder import open_folder
from prefect_slots.ledger.store import Ledger
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.scheduling.decide import decide

WRITE = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    file.execute("BEGIN IMMEDIATE")
    print("written")
except sqlite3.OperationalError as error:
    print(error)
"""


def written_by_another_process(file: Path) -> str:
    done = subprocess.run([sys.executable, "-c", WRITE, str(file)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_looking_at_the_ledger_in_the_middle_of_a_transaction_lets_nobody_else_write(
    state: Path, members: Pair
) -> None:
    one, _ = members
    file = state / schema.FILE

    def look(tx: Transaction) -> None:
        second = Ledger(open_folder(state), partial(decide, max_overtakes=1))
        assert second.read(lambda other: other.dead_owners()) == []
        second.close()
        assert tx.dead_owners() == []
        assert written_by_another_process(file) == "database is locked"

    one.ledger.transact(look)
    assert written_by_another_process(file) == "written"


def test_what_this_guards_against_is_real(state: Path, members: Pair) -> None:
    one, _ = members
    file = state / schema.FILE

    def look(tx: Transaction) -> None:
        tx.set_meta("mark", "set")
        file.with_name(f"{schema.FILE}-shm").open("rb").close()
        assert written_by_another_process(file) == "written"

    one.ledger.transact(look)

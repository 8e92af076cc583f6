"""Statements inside one transaction, and the messages to send after its commit.

The part that all readers and writers of the tables share; it knows nothing of scheduling.
"""

import sqlite3
import time
from typing import Any

from prefect_slots.system import clock


class Tables:
    """SQL inside one transaction.

    Attributes:
        actor: The owner on behalf of which it runs: the releaser of the leases that it gives up.
        releases: The actor can reach the server; if not, leases stay with their owners.
        wakes: `(address, ticket)` of each ticket granted or refused to another owner.
        settled: The actor's own tickets that were granted or refused.
        spare: Holder ids of recorded leases whose cells came free in this transaction: they may be handed over.
        now: Time of its begin, a Unix time. All rows use it, so that a cell handed over never counts twice.
        moment: The same on the boot clock, which never jumps: the clock of decisions.
    """

    def __init__(self, connection: sqlite3.Connection, actor: str, *, releases: bool) -> None:
        self.connection = connection
        self.actor = actor
        self.releases = releases
        self.wakes: list[tuple[str, str]] = []
        self.settled: list[str] = []
        self.spare: list[str] = []
        self.now = time.time()
        self.moment = clock.boot_clock()

    def all(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return all rows."""
        return self.connection.execute(sql, values).fetchall()

    def one(self, sql: str, *values: object) -> tuple[Any, ...] | None:
        """Return the first row, if any."""
        return self.connection.execute(sql, values).fetchone()

    def column(self, sql: str, *values: object) -> list[Any]:
        """Return the first column of all rows."""
        return [row[0] for row in self.all(sql, *values)]

    def value(self, sql: str, *values: object) -> Any:
        """Return the first column of the first row; `None` if there is no row."""
        row = self.one(sql, *values)
        return row[0] if row else None

    def run(self, sql: str, *values: object) -> int:
        """Execute one writing statement; return how many rows it touched."""
        return self.connection.execute(sql, values).rowcount

    def meta(self, key: str) -> str | None:
        """Return a value of the `meta` table."""
        return self.value("SELECT value FROM meta WHERE key=?", key)

    def set_meta(self, key: str, value: str) -> None:
        """Set a value of the `meta` table."""
        self.run("INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value=excluded.value", key, value)

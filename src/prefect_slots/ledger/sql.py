"""One transaction's access to the tables, and what is to be told after its commit.

The plain part that reading and writing the book share; it knows SQL and nothing of scheduling.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from prefect_slots.system import clock


class Tables:
    """SQL inside one transaction.

    Attributes:
        actor: The owner on whose behalf it runs; leases of what it frees become its to release.
        releases: Whether the actor can reach the server to give leases back; if not, they stay with their owners.
        wakes: `(address, ticket)` of what was granted or refused to other owners.
        settled: Tickets of the actor's own that were granted or refused.
        spare: Leases that were recorded and whose cells came free in this transaction, by our holder id.
        now: When it began, a Unix time; one for all that it writes, so that a cell handed over never counts twice.
        moment: The same on the clock that never jumps, which decisions count with.
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

    def run(self, sql: str, *values: object) -> int:
        """Execute one writing statement; return how many rows it touched."""
        return self.connection.execute(sql, values).rowcount

    def meta(self, key: str) -> str | None:
        """Return a value of the `meta` table."""
        row = self.one("SELECT value FROM meta WHERE key=?", key)
        return row[0] if row else None

    def set_meta(self, key: str, value: str) -> None:
        """Set a value of the `meta` table."""
        self.run("INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value=excluded.value", key, value)

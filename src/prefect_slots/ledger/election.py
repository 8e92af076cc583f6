"""What one process does for all of the machine: who has a role, and how another takes over.

A process that has a role says so again and again; one that is stopped or dead does not, and loses it. Two that believe
for a moment that they have it do no harm: what they do is safe by the rows it goes through.
"""

from __future__ import annotations

from typing import Final

from prefect_slots.ledger.sql import Tables

STALE_SECONDS: Final = 3.0
"""How long a role stays with a process that has not been heard of."""


def held_by_other(tables: Tables, role: str, now: float) -> bool:
    """Tell whether another process has `role` and has been heard of lately."""
    row = tables.one("SELECT owner, beat FROM role WHERE name=?", role)
    return row is not None and row[0] != tables.actor and now - row[1] < STALE_SECONDS


def leave(tables: Tables, role: str) -> None:
    """Give up `role`, if the actor has it."""
    tables.run("DELETE FROM role WHERE name=? AND owner=?", role, tables.actor)


def take(tables: Tables, role: str, now: float) -> bool:
    """Take `role`, or say that the actor still has it; return whether it has it now."""
    if held_by_other(tables, role, now):
        return False
    tables.run(
        "INSERT INTO role VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET owner=excluded.owner, beat=excluded.beat",
        *(role, tables.actor, now),
    )
    return True

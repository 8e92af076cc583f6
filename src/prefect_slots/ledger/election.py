"""Election: roles that one process has for all of the machine, as rows with a heartbeat.

The holder of a role confirms it at each beat. A process that is stopped or dead does not, and another one takes the
role. Two processes that both believe to have it for a moment do no harm: the rows that their jobs go through keep them
safe.
"""

from prefect_slots.ledger.sql import Tables

# A role without a heartbeat for this long is free. Beats come every second, so that two may be missed on a busy
# machine; leases last 300 s, so that a takeover is in time for them.
STALE_SECONDS = 3.0


def held_by_other(tables: Tables, role: str, now: float) -> bool:
    """Return whether another process has `role`, with a fresh heartbeat."""
    row = tables.one("SELECT owner, beat FROM role WHERE name=?", role)
    return row is not None and row[0] != tables.actor and now - row[1] < STALE_SECONDS


def leave(tables: Tables, role: str) -> None:
    """Give up `role`, if the actor has it."""
    tables.run("DELETE FROM role WHERE name=? AND owner=?", role, tables.actor)


def take(tables: Tables, role: str, now: float) -> bool:
    """Take or confirm `role` for the actor; return whether it has it now."""
    if held_by_other(tables, role, now):
        return False
    tables.run(
        "INSERT INTO role VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET owner=excluded.owner, beat=excluded.beat",
        *(role, tables.actor, now),
    )
    return True

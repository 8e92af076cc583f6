"""Measured use, as rows: foreign use of each cell, and each grant's own use beside what it declared.

The amount that foreign use blocks stands in the cell itself (`outside`), beside the server's count (`foreign_use`); see
`registry`. Times are Unix times in seconds.
"""

import json
from dataclasses import dataclass

from prefect_slots.ledger.sql import Tables
from prefect_slots.model import CellId

Samples = tuple[tuple[float, int], ...]


# Foreign use


@dataclass(frozen=True)
class Outside:
    """Foreign use of one cell, as its device or licence server shows it.

    Attributes:
        used: Use beyond the server's count; `None` before the first answer. It stays until the next answer.
        seen_at: Time of the last answer.
        asked_at: Time of the last question.
        peak: Times and amounts that may still be the largest.
        counted: Times and the server's count of foreign use at each.
        misses: Questions in a row without an answer.
        why: Reason for the last missing answer; empty where there was one.
    """

    cell: CellId
    used: int | None = None
    seen_at: float | None = None
    asked_at: float = 0.0
    peak: Samples = ()
    counted: Samples = ()
    misses: int = 0
    why: str = ""


def read_outside(tables: Tables) -> dict[CellId, Outside]:
    """Return the foreign use of every cell that was ever looked at."""
    rows = tables.all(
        "SELECT resource, number, used, seen_at, asked_at, peak, counted, misses, why FROM outside ORDER BY 1, 2"
    )
    found: dict[CellId, Outside] = {}
    for resource, number, used, seen_at, asked_at, peak, counted, misses, why in rows:
        cell = CellId(resource, number)
        found[cell] = Outside(cell, used, seen_at, asked_at, _samples(peak), _samples(counted), misses, why)
    return found


def _samples(text: str) -> Samples:
    return tuple((time, amount) for time, amount in json.loads(text))


def write_outside(tables: Tables, seen: Outside) -> None:
    """Replace the row of a cell's foreign use."""
    tables.run(
        "INSERT OR REPLACE INTO outside VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        *(*seen.cell, seen.used, seen.seen_at, seen.asked_at, json.dumps(seen.peak), json.dumps(seen.counted)),
        *(seen.misses, seen.why),
    )


def oldest_look(tables: Tables, resource: str) -> float | None:
    """Return the time of the last look at the cell of a resource that was looked at longest ago, if any was."""
    sql = "SELECT MIN(asked_at) FROM outside JOIN cell USING (resource, number) WHERE resource=? AND present"
    return tables.value(sql, resource)


# Use by grants


@dataclass(frozen=True)
class Spent:
    """Memory use of one grant on one cell, in MiB.

    Attributes:
        peak: The largest amount seen.
        looks: Number of looks.
        together: `peak` includes other grants that its process held on the cell.
        over: Looks in a row that showed more than was declared.
        warned: The excess has been reported.
        signals: Signals sent to its process because of it.
    """

    held: str
    cell: CellId
    label: str
    declared: int
    peak: int = 0
    looks: int = 0
    together: bool = False
    over: int = 0
    warned: bool = False
    signals: int = 0


_SPENT = "SELECT held, resource, number, label, declared, peak, looks, together, over, warned, signals FROM spent"


def _spent(tables: Tables, where: str = "") -> list[Spent]:
    return [Spent(row[0], CellId(*row[1:3]), *row[3:]) for row in tables.all(f"{_SPENT} {where}")]


def read_spent(tables: Tables) -> dict[tuple[str, CellId], Spent]:
    """Return the use of every grant, including those that have ended since the last look."""
    return {(spent.held, spent.cell): spent for spent in _spent(tables)}


def write_spent(tables: Tables, seen: Spent) -> None:
    """Replace the row of a grant's use of a cell."""
    tables.run(
        "INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        *(seen.held, *seen.cell, seen.label, seen.declared, seen.peak, seen.looks),
        *(seen.together, seen.over, seen.warned, seen.signals),
    )


def take_ended(tables: Tables) -> list[Spent]:
    """Delete and return the use of grants that have ended."""
    # Kept until the look after the end, which makes the suggestion for the next time.
    ended = "WHERE held NOT IN (SELECT id FROM held)"
    found = _spent(tables, ended)
    if found:
        tables.run(f"DELETE FROM spent {ended}")
    return found


def is_measured(tables: Tables, resource: str) -> bool:
    """Return whether use of a resource is to be looked at: it is held, or an ended grant's use of it is recorded."""
    sql = "SELECT 1 FROM holding WHERE resource=? UNION SELECT 1 FROM spent WHERE resource=?"
    return tables.one(sql, resource, resource) is not None


def was_ended(tables: Tables, grant: str) -> bool:
    """Return whether the process of a grant that is still held was asked to end because of its use."""
    return tables.one("SELECT 1 FROM spent WHERE held=? AND signals>0", grant) is not None


# Processes of grants


def note_command(tables: Tables, pid: int, started: float) -> None:
    """Record the one process that the actor runs under its grants: only it may be ended because of its use."""
    tables.run("UPDATE owner SET command=?, command_started=? WHERE id=?", pid, started, tables.actor)


def note_serving(tables: Tables, pid: int, started: float, grant: str) -> None:
    """Record the grant that a task process of the actor serves from now on; an empty or ended one clears it."""
    # A process serves one grant at a time; the foreign key removes the row with its grant.
    tables.run("DELETE FROM serving WHERE owner=? AND pid=?", tables.actor, pid)
    tables.run(
        "INSERT INTO serving (held, owner, pid, started) SELECT id, ?, ?, ? FROM held WHERE id=?",
        *(tables.actor, pid, started, grant),
    )

"""What was seen of a grant's memory beside what it declared, of a card or the host: a row each until it has ended."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_slots.ledger.sql import Tables
from prefect_slots.model.book import CellId

_COLUMNS = "held, resource, number, label, declared, peak, looks, together, over, warned, signals"


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What was seen of one grant on one cell; amounts in MiB.

    Attributes:
        peak: The most that was seen.
        looks: How often it was looked at.
        together: Whether `peak` is not its own alone: its process held other grants of the cell beside it.
        over: How often in a row it was seen to use more than it declared.
        warned: Whether that has been told.
        signals: How often its process was asked to end for it.
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


def read(tables: Tables) -> dict[tuple[str, CellId], Spent]:
    """Return what was seen of grants, those that have ended since the last look among them."""
    rows = tables.all(f"SELECT {_COLUMNS} FROM spent")
    found = (
        Spent(
            held=row[0],
            cell=CellId(row[1], row[2]),
            label=row[3],
            declared=row[4],
            peak=row[5],
            looks=row[6],
            together=bool(row[7]),
            over=row[8],
            warned=bool(row[9]),
            signals=row[10],
        )
        for row in rows
    )
    return {(spent.held, spent.cell): spent for spent in found}


def write(tables: Tables, seen: Spent) -> None:
    """Write what was seen of a grant."""
    tables.run(
        f"INSERT OR REPLACE INTO spent ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        *(seen.held, *seen.cell, seen.label, seen.declared, seen.peak, seen.looks),
        *(seen.together, seen.over, seen.warned, seen.signals),
    )


def drop_ended(tables: Tables) -> None:
    """Forget what was seen of grants that have ended."""
    tables.run("DELETE FROM spent WHERE held NOT IN (SELECT id FROM held)")


def note_command(tables: Tables, pid: int, started: float) -> None:
    """Note the one process that the actor runs under its grants: it alone may be ended for what it uses."""
    tables.run("UPDATE owner SET command=?, command_started=? WHERE id=?", pid, started, tables.actor)


def note_serving(tables: Tables, pid: int, started: float, grant: str) -> None:
    """Note which grant a task process of the actor's serves from now on; empty, or one that has ended, for none."""
    tables.run("DELETE FROM serving WHERE owner=? AND pid=?", tables.actor, pid)
    tables.run(
        "INSERT INTO serving (held, owner, pid, started) SELECT id, ?, ?, ? FROM held WHERE id=?",
        *(tables.actor, pid, started, grant),
    )


def was_ended(tables: Tables, grant: str) -> bool:
    """Tell whether the process of a grant that is still held was asked to end for what it used."""
    return tables.one("SELECT 1 FROM spent WHERE held=? AND signals>0", grant) is not None

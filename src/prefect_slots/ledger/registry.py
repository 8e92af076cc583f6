"""What the machine has, as registered: its name, its resources, and the numbers of its cells.

A cell's number is given once per key (a card's UUID) and never reused. What a survey could not read stays as it was:
unknown is not zero.
"""

from __future__ import annotations

import uuid
from typing import Final

from prefect_slots.ledger.transaction import Transaction
from prefect_slots.model.amount import Exclusive
from prefect_slots.model.book import CellId, Changed
from prefect_slots.model.registered import Registered, RegisteredCell, RegisteredResource
from prefect_slots.model.resource import Inventory, Scope

_EDITION: Final = "edition"


class Known:
    """What is registered, read in full only when it has changed since this was last asked."""

    def __init__(self) -> None:
        self._last: Registered | None = None

    def __call__(self, transaction: Transaction) -> Registered:
        """Return what the ledger has registered."""
        if self._last is None or self._last.edition != transaction.meta(_EDITION):
            self._last = registered(transaction)
        return self._last


def registered(transaction: Transaction) -> Registered:
    """Return what the ledger has registered."""
    cells: dict[str, list[RegisteredCell]] = {}
    for row in transaction.all(
        "SELECT resource, number, key, label, position, capacity, foreign_use + outside, present, exclusive, lost "
        "FROM cell ORDER BY 1, 2"
    ):
        cells.setdefault(row[0], []).append(
            RegisteredCell(
                id=CellId(row[0], row[1]),
                key=row[2],
                label=row[3],
                position=row[4],
                capacity=Exclusive(row[5]) if row[8] else row[5],
                foreign=row[6],
                present=bool(row[7]),
                lost=bool(row[9]),
            )
        )
    return Registered(
        edition=transaction.meta(_EDITION),
        machine=transaction.meta("machine"),
        resources=tuple(
            RegisteredResource(
                name=name, unit=unit, scope=Scope(scope), origin=origin, cells=tuple(cells.get(name, ()))
            )
            for name, unit, scope, origin in transaction.all(
                "SELECT name, unit, scope, origin FROM resource ORDER BY name"
            )
        ),
    )


def counted(transaction: Transaction) -> dict[CellId, int]:
    """Return the server's count of foreign use of each present cell, where it is not zero."""
    rows = transaction.all("SELECT resource, number, foreign_use FROM cell WHERE present AND foreign_use>0")
    return {CellId(resource, number): amount for resource, number, amount in rows}


def note_counted(transaction: Transaction, cell: CellId, amount: int) -> bool:
    """Record the server's count of foreign use of a cell; return whether that is news."""
    sql = "UPDATE cell SET foreign_use=? WHERE resource=? AND number=? AND foreign_use<>?"
    return transaction.run(sql, amount, *cell, amount) > 0


def block(transaction: Transaction, cell: CellId, amount: int) -> bool:
    """Keep an amount of a cell from being granted, beside the server's count; return whether that is news."""
    sql = "UPDATE cell SET outside=? WHERE resource=? AND number=? AND outside<>?"
    return transaction.run(sql, amount, *cell, amount) > 0


def note_change(transaction: Transaction) -> None:
    """Make whoever remembers what is registered read it again."""
    transaction.set_meta(_EDITION, uuid.uuid4().hex)


def note_claim(transaction: Transaction, url: str, database: str) -> None:
    """Note that this ledger owns the machine's name on the server at `url`, and what kind of database that has."""
    transaction.set_meta("claimed_at", url)
    transaction.set_meta("database", database)


def is_claimed_at(transaction: Transaction, url: str) -> bool:
    """Tell whether this ledger owns the machine's name there: then nobody else grants what this machine has."""
    return transaction.meta("claimed_at") == url


def name_machine(transaction: Transaction, name: str) -> str:
    """Return the machine's name: the one it was registered by first, else `name` from now on."""
    if transaction.meta("machine") is None:
        transaction.set_meta("machine", name)
        note_change(transaction)
    return transaction.meta("machine") or name


def register(transaction: Transaction, inventory: Inventory) -> Registered:
    """Make the ledger's cells equal `inventory`.

    Cells that have gone keep their number and offer nothing; what is held on them stays held. Resources and cells that
    the inventory calls unknown are left as they are; on those that are lost nothing more is granted.
    """
    listed = {(resource.name, cell.key) for resource in inventory.resources for cell in resource.cells}
    for name, key in transaction.all("SELECT resource, key FROM cell WHERE present"):
        # A lost card that told no UUID makes the resource unknown: any of its other cells may be that card.
        if (name, key) not in listed and name not in inventory.unknown and key not in inventory.unknown_cells:
            transaction.run("UPDATE cell SET present=0 WHERE resource=? AND key=?", name, key)
        elif (name, key) not in listed and (name in inventory.lost or key in inventory.lost_cells):
            transaction.run("UPDATE cell SET lost=1 WHERE resource=? AND key=?", name, key)
    for resource in inventory.resources:
        transaction.run(
            "INSERT INTO resource VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET unit=excluded.unit, "
            "scope=excluded.scope, origin=excluded.origin",
            *(resource.name, resource.unit, resource.scope.value, resource.origin),
        )
        for cell in resource.cells:
            transaction.run(
                "INSERT INTO cell (resource, number, key, label, position, capacity, exclusive) VALUES (?, "
                "(SELECT COALESCE(MAX(number) + 1, 0) FROM cell WHERE resource=?), ?, ?, ?, ?, ?) "
                "ON CONFLICT (resource, key) DO UPDATE SET label=excluded.label, position=excluded.position, "
                "capacity=excluded.capacity, exclusive=excluded.exclusive, present=1, lost=0",
                *(resource.name, resource.name, cell.key, cell.label, cell.index, cell.capacity),
                isinstance(cell.capacity, Exclusive),
            )
    note_change(transaction)
    transaction.apply(Changed())
    return registered(transaction)

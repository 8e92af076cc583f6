"""What the machine has, as registered: its name, its resources, and the numbers of its cells.

A cell's number is given once per key (a card's UUID) and never reused. What a survey could not read stays as it was:
unknown is not zero.
"""

from __future__ import annotations

import uuid
from typing import Final

from prefect_slots.ledger.transaction import Transaction
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
        "SELECT resource, number, key, label, position, capacity, foreign_use, present FROM cell ORDER BY 1, 2"
    ):
        cells.setdefault(row[0], []).append(
            RegisteredCell(
                id=CellId(row[0], row[1]),
                key=row[2],
                label=row[3],
                position=row[4],
                capacity=row[5],
                foreign=row[6],
                present=bool(row[7]),
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
    the inventory calls unknown are left as they are.
    """
    for (name,) in transaction.all("SELECT name FROM resource"):
        if name not in inventory and name not in inventory.unknown:
            transaction.run("UPDATE cell SET present=0 WHERE resource=?", name)
    for resource in inventory.resources:
        transaction.run(
            "INSERT INTO resource VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET unit=excluded.unit, "
            "scope=excluded.scope, origin=excluded.origin",
            *(resource.name, resource.unit, resource.scope.value, resource.origin),
        )
        kept = {cell.key for cell in resource.cells} | inventory.unknown_cells
        for (key,) in transaction.all("SELECT key FROM cell WHERE resource=? AND present", resource.name):
            # A lost card that told no UUID makes the resource unknown: any of its other cells may be that card.
            if key not in kept and resource.name not in inventory.unknown:
                transaction.run("UPDATE cell SET present=0 WHERE resource=? AND key=?", resource.name, key)
        for cell in resource.cells:
            transaction.run(
                "INSERT INTO cell (resource, number, key, label, position, capacity) VALUES (?, "
                "(SELECT COALESCE(MAX(number) + 1, 0) FROM cell WHERE resource=?), ?, ?, ?, ?) "
                "ON CONFLICT (resource, key) DO UPDATE SET label=excluded.label, position=excluded.position, "
                "capacity=excluded.capacity, present=1",
                *(resource.name, resource.name, cell.key, cell.label, cell.index, cell.capacity),
            )
    note_change(transaction)
    transaction.apply(Changed())
    return registered(transaction)

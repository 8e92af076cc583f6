"""The registered machine, as rows: its name, its resources, and its numbered cells.

A cell's number is given once per key (a GPU's UUID) and never reused, so that a limit's name always means the same GPU.
A resource that a survey could not read stays as it was: unknown is not zero.
"""

import json
import uuid
from collections.abc import Mapping

from prefect_slots.ledger.transaction import Transaction
from prefect_slots.model import (
    GPU_MEM,
    Exclusive,
    Inventory,
    Registered,
    RegisteredCell,
    RegisteredResource,
    Scope,
    book,
)

# Key in `meta` of a random text that changes with each registration and each change of foreign use.
_EDITION = "edition"
# Key in `meta` of the name of the resource whose units are of the host's memory; empty if none is.
_UNIFIED = "of_host_memory"
# Key in `meta` of the resources by their further names, as JSON.
_POOLS = "pools"
# Key in `meta` of a name that a first use gave and no registration has fixed yet.
_PROVISIONAL = "provisional_name"
_FLEET = "fleet_numbers"


class Known:
    """A cached read of the registered machine: read in full only after a change."""

    def __init__(self) -> None:
        self._last: Registered | None = None

    def __call__(self, transaction: Transaction) -> Registered:
        """Return the registered machine."""
        if self._last is None or self._last.edition != transaction.meta(_EDITION):
            self._last = registered(transaction)
        return self._last


def registered(transaction: Transaction) -> Registered:
    """Return the registered machine."""
    cells: dict[str, list[RegisteredCell]] = {}
    for resource, number, key, label, position, capacity, exclusive, foreign, present, lost in transaction.all(
        "SELECT resource, number, key, label, position, capacity, exclusive, foreign_use + outside, present, lost "
        "FROM cell ORDER BY 1, 2"
    ):
        size = Exclusive(capacity) if exclusive else capacity
        cell = RegisteredCell(
            book.CellId(resource, number), key, label, position, size, foreign, bool(present), bool(lost)
        )
        cells.setdefault(resource, []).append(cell)
    rows = transaction.all("SELECT name, unit, scope, origin FROM resource ORDER BY name")
    return Registered(
        edition=transaction.meta(_EDITION),
        machine=transaction.meta("machine"),
        unified=transaction.meta(_UNIFIED) == GPU_MEM,
        resources=tuple(
            RegisteredResource(name, unit, Scope(scope), origin, tuple(cells.get(name, ())))
            for name, unit, scope, origin in rows
        ),
        pools=json.loads(transaction.meta(_POOLS) or "{}"),
    )


def counted(transaction: Transaction) -> dict[book.CellId, int]:
    """Return the server's count of foreign use of each present cell, where it is not zero."""
    rows = transaction.all("SELECT resource, number, foreign_use FROM cell WHERE present AND foreign_use>0")
    return {book.CellId(resource, number): amount for resource, number, amount in rows}


def note_counted(transaction: Transaction, cell: book.CellId, amount: int) -> bool:
    """Record the server's count of foreign use of a cell; return whether that is news."""
    sql = "UPDATE cell SET foreign_use=? WHERE resource=? AND number=? AND foreign_use<>?"
    return transaction.run(sql, amount, *cell, amount) > 0


def block(transaction: Transaction, cell: book.CellId, amount: int) -> bool:
    """Keep an amount of a cell from being granted, beside the server's count; return whether that is news."""
    sql = "UPDATE cell SET outside=? WHERE resource=? AND number=? AND outside<>?"
    return transaction.run(sql, amount, *cell, amount) > 0


def note_users(transaction: Transaction, cell: book.CellId, users: str, display: int) -> bool:
    """Record the programs that use a cell, and the amount that leaves it whole; return whether the amount is news."""
    transaction.run("UPDATE cell SET users=? WHERE resource=? AND number=? AND users<>?", users, *cell, users)
    sql = "UPDATE cell SET display=? WHERE resource=? AND number=? AND display<>?"
    return transaction.run(sql, display, *cell, display) > 0


def users(transaction: Transaction) -> dict[book.CellId, str]:
    """Return the programs that use each cell beside grants, in words; only cells with any."""
    rows = transaction.all("SELECT resource, number, users FROM cell WHERE users<>''")
    return {book.CellId(resource, number): text for resource, number, text in rows}


def note_change(transaction: Transaction) -> None:
    """Invalidate every cached read of the registered machine."""
    transaction.set_meta(_EDITION, uuid.uuid4().hex)


def note_claim(transaction: Transaction, url: str, database: str) -> None:
    """Record that this ledger owns the machine's name on the server at `url`, and that server's kind of database."""
    transaction.set_meta("claimed_at", url)
    transaction.set_meta("database", database)


def is_claimed_at(transaction: Transaction, url: str) -> bool:
    """Return whether this ledger owns the machine's name at `url`: no other ledger then grants its cells."""
    return transaction.meta("claimed_at") == url


def name_machine(transaction: Transaction, name: str, *, fix: bool = True) -> None:
    """Name the machine, unless its name is fixed.

    Args:
        transaction: To write in.
        name: A sanitised machine name.
        fix: Keep the name from now on; a first use without a server only needs some name.
    """
    if not is_named(transaction) and (fix or transaction.meta("machine") is None):
        rename_machine(transaction, name)
        transaction.run("DELETE FROM meta WHERE key=?" if fix else "INSERT INTO meta VALUES (?, '1')", _PROVISIONAL)


def rename_machine(transaction: Transaction, name: str) -> None:
    """Give the machine another name."""
    transaction.set_meta("machine", name)
    note_change(transaction)


def is_named(transaction: Transaction) -> bool:
    """Return whether the machine has a name that a registration has fixed."""
    return transaction.meta("machine") is not None and transaction.meta(_PROVISIONAL) is None


def in_use(transaction: Transaction) -> int:
    """Return the number of grants and leases, which carry the machine's name."""
    return transaction.value("SELECT (SELECT count(*) FROM held) + (SELECT count(*) FROM lease)")


def note_config(transaction: Transaction, source: str, digest: str) -> None:
    """Record the configuration file of a registration, with a digest of its content; `defaults` without a file."""
    transaction.set_meta("config", f"{digest} {source}")


def config(transaction: Transaction) -> tuple[str, str] | None:
    """Return the file of the last registration and its digest; `None` before one that recorded it."""
    digest, _, source = (transaction.meta("config") or "").partition(" ")
    return (source, digest) if source else None


def register(transaction: Transaction, inventory: Inventory) -> Registered:
    """Make the ledger's cells equal `inventory`.

    Cells that have gone keep their number and their holders, and offer nothing. Resources and cells that the inventory
    calls unknown stay as they are; on lost ones nothing more is granted.
    """
    listed = {(resource.name, cell.key) for resource in inventory.resources for cell in resource.cells}
    for name, key in transaction.all("SELECT resource, key FROM cell WHERE present"):
        # A lost GPU that reports no UUID makes the resource unknown: it may be any of the missing cells.
        if (name, key) not in listed and name not in inventory.unknown and key not in inventory.unknown_cells:
            transaction.run("UPDATE cell SET present=0 WHERE resource=? AND key=?", name, key)
        # A lost GPU keeps its cell: its holders still run there, and its limit must not vanish under them.
        elif (name, key) not in listed and (name in inventory.lost or key in inventory.lost_cells):
            transaction.run("UPDATE cell SET lost=1 WHERE resource=? AND key=?", name, key)
    # Numbers are never reused: the next one follows the largest ever given, gone cells included.
    for resource in inventory.resources:
        if resource.name == GPU_MEM:
            transaction.set_meta(_UNIFIED, GPU_MEM if resource.of_host_memory else "")
        transaction.run(
            "INSERT INTO resource VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET unit=excluded.unit, "
            "scope=excluded.scope, origin=excluded.origin",
            *(resource.name, resource.unit, resource.scope.value, resource.origin),
        )
        for cell in resource.cells:
            transaction.run(
                "INSERT INTO cell (resource, number, key, label, compute_capability, position, capacity, exclusive) "
                "VALUES (?, (SELECT COALESCE(MAX(number) + 1, 0) FROM cell WHERE resource=?), ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (resource, key) DO UPDATE SET label=excluded.label, position=excluded.position, "
                "compute_capability=excluded.compute_capability, capacity=excluded.capacity, "
                "exclusive=excluded.exclusive, present=1, lost=0",
                *(
                    resource.name,
                    resource.name,
                    cell.key,
                    cell.label,
                    cell.compute_capability,
                    cell.index,
                    cell.capacity,
                ),
                isinstance(cell.capacity, Exclusive),
            )
    # A resource that could not be read keeps its further names.
    pools = {also: name for also, name in registered(transaction).pools.items() if name in inventory.unknown}
    pools |= {also: resource.name for resource in inventory.resources for also in resource.also}
    transaction.set_meta(_POOLS, json.dumps(pools))
    _keep_to_fleet(transaction)
    note_change(transaction)
    # New or larger cells may fit tickets that wait now.
    transaction.apply(book.Changed())
    return registered(transaction)


def note_fleet(transaction: Transaction, numbers: Mapping[str, int]) -> None:
    """Record the fleet's numbers in force, by declared resource, and make the cells equal them."""
    if numbers != json.loads(transaction.meta(_FLEET) or "{}"):
        transaction.set_meta(_FLEET, json.dumps(numbers))
        _keep_to_fleet(transaction)
        note_change(transaction)
        transaction.apply(book.Changed())


def _keep_to_fleet(transaction: Transaction) -> None:
    # Another machine may own the number of a fleet's resource; each has one cell.
    for resource, number in json.loads(transaction.meta(_FLEET) or "{}").items():
        transaction.run("UPDATE cell SET capacity=? WHERE resource=? AND present", number, resource)

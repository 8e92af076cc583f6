"""What grants hold of a resource, by the ledger, and which of them a process belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prefect_slots.ledger.transaction import Transaction
from prefect_slots.model.book import CellId


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a grant holds of one cell.

    Attributes:
        source: The grant that it draws on, if any: then it is part of what that one holds.
        pid: Of its owner; `None` if that has died and draws of others go on.
        started: When that process started.
        command: The one process that the owner runs under its grants, and when that started.
    """

    cell: CellId
    grant: str
    source: str | None
    label: str
    declared: int
    pid: int | None
    started: float
    command: tuple[int, float] | None


def read_parts(tx: Transaction, resource: str) -> tuple[Part, ...]:
    """Return what grants hold of a resource now."""
    return tuple(
        Part(
            cell=CellId(resource, row[0]),
            grant=row[1],
            source=row[2],
            label=row[3],
            declared=row[4],
            pid=row[5],
            started=row[6] or 0.0,
            command=(row[7], row[8]) if row[7] is not None else None,
        )
        for row in tx.all(
            "SELECT c.number, h.id, h.source, h.label, c.amount, o.pid, o.started, o.command, o.command_started "
            "FROM holding c JOIN held h ON h.id=c.held LEFT JOIN owner o ON o.id=h.owner WHERE c.resource=?",
            resource,
        )
    )


def grants_named(tokens: Mapping[int, str], ledger: str) -> dict[int, str]:
    """Return the grant of this ledger that a process was started under, by process id, as its environment says."""
    told = {pid: token.partition(":") for pid, token in tokens.items()}
    return {pid: grant for pid, (of, _, grant) in told.items() if of == ledger}


class Belonging:
    """To which grants on one cell a process belongs.

    Args:
        parts: What grants hold of that cell.
        named: The grants that processes were started under.
        parents: Whose child a process is.
    """

    def __init__(self, parts: Iterable[Part], named: Mapping[int, str], parents: Mapping[int, int]) -> None:
        everything = tuple(parts)
        self.roots = {part.grant: part for part in everything if part.source is None}
        self.by_pid: dict[int | None, list[Part]] = {}
        for part in self.roots.values():
            self.by_pid.setdefault(part.pid, []).append(part)
        self._sources = {part.grant: part.source for part in everything if part.source is not None}
        self._named = named
        self._parents = parents

    def grant_of(self, pid: int) -> str | None:
        """Return the grant that a process was started under, or the one which that draws on; `None` if it has ended."""
        grant = self._named.get(pid)
        while grant in self._sources:
            grant = self._sources[grant]
        return grant if grant in self.roots else None

    def holder_of(self, pid: int) -> int | None:
        """Return its nearest ancestor that holds something of the cell, or itself; `None` if there is none."""
        holder: int | None = pid
        while holder is not None and holder not in self.by_pid:
            holder = self._parents.get(holder)
        return holder

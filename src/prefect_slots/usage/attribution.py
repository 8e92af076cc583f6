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
        for_children: Whether task processes of the owner's use it, and the owner itself does not.
        processes: Those, and when they started: the grant's own first, then who does what that has submitted.
    """

    cell: CellId
    grant: str
    source: str | None
    label: str
    declared: int
    pid: int | None
    started: float
    command: tuple[int, float] | None
    for_children: bool = False
    processes: tuple[tuple[int, float], ...] = ()

    @property
    def user(self) -> int | None:
        """The process whose descendants use it, and itself; `None` if none does."""
        if self.processes:
            return self.processes[0][0]
        return None if self.for_children else self.pid


def read_parts(tx: Transaction, resource: str) -> tuple[Part, ...]:
    """Return what grants hold of a resource now."""
    serving: dict[str, list[tuple[int, float]]] = {}
    for grant, pid, started in tx.all("SELECT held, pid, started FROM serving ORDER BY rowid"):
        serving.setdefault(grant, []).append((pid, started))
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
            for_children=bool(row[9]),
            processes=tuple(serving.get(row[1], ())),
        )
        for row in tx.all(
            "SELECT c.number, h.id, h.source, h.label, c.amount, o.pid, o.started, o.command, o.command_started, "
            "h.for_children FROM holding c JOIN held h ON h.id=c.held LEFT JOIN owner o ON o.id=h.owner "
            "WHERE c.resource=?",
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
            self.by_pid.setdefault(part.user, []).append(part)
        self._sources = {part.grant: part.source for part in everything if part.source is not None}
        serving = {pid: part.grant for part in everything for pid, _ in part.processes}
        self._serving = {pid: grant for pid, grant in serving.items() if pid not in self.by_pid}
        # The environment of a task process names what its pool was started under.
        self._named = {pid: grant for pid, grant in named.items() if pid not in serving}
        self._parents = parents

    def grant_of(self, pid: int) -> str | None:
        """Return the grant that a process was started under or serves, or the one which that draws on.

        `None` if there is none, or it has ended, or it is to be found by who holds it.
        """
        named = self._root(self._named.get(pid))
        return named or self._root(self._serving.get(self._nearest(pid) or 0))

    def holder_of(self, pid: int) -> int | None:
        """Return its nearest ancestor that holds something of the cell, or itself; `None` if there is none."""
        nearest = self._nearest(pid)
        return nearest if nearest in self.by_pid else None

    def _root(self, grant: str | None) -> str | None:
        while grant in self._sources:
            grant = self._sources[grant]
        return grant if grant in self.roots else None

    def _nearest(self, pid: int) -> int | None:
        near: int | None = pid
        while near is not None and near not in self.by_pid and near not in self._serving:
            near = self._parents.get(near)
        return near

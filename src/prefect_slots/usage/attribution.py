"""What grants hold of a resource, by the ledger, and which of them a process belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prefect_slots.ledger.queries import Part


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

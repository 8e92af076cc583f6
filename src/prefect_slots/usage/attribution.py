"""Attribution of processes to grants, by the ledger, by lineage and by the variable that names a grant."""

from collections.abc import Iterable, Mapping
from typing import Final

from prefect_slots.ledger import queries
from prefect_slots.ledger.queries import Part
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.model.resource import GPU_MEM
from prefect_slots.system.processes import ProcessInfo, descendants

# After the end of a grant its processes take about this long to give their memory back.
_SETTLING_SECONDS: Final = 2.0


def grants_named(tokens: Mapping[int, str], ledger: str) -> dict[int, str]:
    """Return the grant of this ledger that each process was started under, by process id, from its environment."""
    told = {pid: token.partition(":") for pid, token in tokens.items()}
    return {pid: grant for pid, (of, _, grant) in told.items() if of == ledger}


class Belonging:
    """The grants on one cell, and their processes.

    A process belongs to the grant that its environment names, else to its nearest ancestor that holds part of the cell
    or serves a grant as a task process.

    Args:
        parts: Holdings of that cell.
        named: The grants that processes were started under, by process id.
        parents: Parent processes, by process id.
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
        # The environment of a task process names the grant that its pool was started under, not the one it serves.
        self._named = {pid: grant for pid, grant in named.items() if pid not in serving}
        self._parents = parents

    def grant_of(self, pid: int) -> str | None:
        """Return the grant that a process was started under or serves; of a draw, the grant it is drawn on.

        `None` if there is none or it has ended; the process may still belong to the holder of `holder_of`.
        """
        named = self._root(self._named.get(pid))
        return named or self._root(self._serving.get(self._nearest(pid) or 0))

    def holder_of(self, pid: int) -> int | None:
        """Return the nearest ancestor that holds part of the cell, or the process itself; `None` if there is none."""
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


class GpuHolders:
    """The holders of each GPU, and their processes among those seen on the GPUs.

    Args:
        tx: The ledger.
        parts: Holdings of GPU memory.
        lineage: The processes seen and their ancestors.
        tokens: The grant that a process was started under, as its environment names it.
        since: Time of the look, a Unix time.
    """

    def __init__(
        self,
        tx: Transaction,
        parts: tuple[Part, ...],
        lineage: Mapping[int, ProcessInfo],
        tokens: Mapping[int, str],
        since: float,
    ) -> None:
        self._parts = parts
        self._lineage = lineage
        self._named = grants_named(tokens, tx.meta("ledger_id") or "")
        self._pids: dict[int, set[int]] = {}
        self._grants: dict[int, set[str]] = {}
        for part in parts:
            # A grant of a task process does not reserve memory that its owner itself has on the GPU.
            for pid in [pid for pid, _ in part.processes] or [part.pid]:
                self._add(part.cell.number, pid, part.grant)
        # Some grants ended between the look and this transaction, or a little before.
        for span in queries.history(tx, GPU_MEM, since - _SETTLING_SECONDS):
            self._add(span.number, span.pid, span.grant)
        self.members = descendants(queries.owner_pids(tx), lineage)

    def _add(self, number: int, pid: int | None, grant: str) -> None:
        # Zero is the parent of the first process: with it, every process of the machine would be a holder's.
        if pid:
            self._pids.setdefault(number, set()).add(pid)
        self._grants.setdefault(number, set()).add(grant)

    def on(self, number: int) -> frozenset[int]:
        """Return the processes whose memory on that GPU is reserved by grants.

        A process that outlived its parent is no longer a descendant of a holder; its environment still names its grant.
        """
        grants = self._grants.get(number, set())
        named = {pid for pid, grant in self._named.items() if grant in grants}
        return descendants({*self._pids.get(number, ()), *named}, self._lineage)

    def belonging(self, number: int) -> Belonging:
        """Return the grants on that GPU and their processes."""
        parents = {pid: info.parent for pid, info in self._lineage.items()}
        return Belonging((part for part in self._parts if part.cell.number == number), self._named, parents)

"""Overuse: memory that the processes of a grant use of a cell, against the amount that the grant declared.

Grants that one process holds side by side are told apart only as far as their processes are. An excess is warned of,
and ended where that is wanted; a grant that declared far more than it used gets a suggestion.
"""

import os
import signal
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import psutil

from prefect_slots.ledger import queries, transaction, usage
from prefect_slots.model import GPU_MEM, MIB, book, bytes_used, finding, format_amount
from prefect_slots.system.processes import same_start

# A suggestion is worth reading if a grant declared twice its peak and at least 2 GiB beyond it, so that another task of
# common size might have fitted, and if several looks had a chance to see the peak.
_MUCH = 2
_MUCH_MIB = 2048
_LOOKS = 3
# At most so many neighbors at risk are named: of the host's memory they are the whole machine.
_NAMED = 5


@dataclass(frozen=True)
class Group:
    """Grants of one process on one cell, mostly one, with their joint use.

    Attributes:
        parts: Their holdings of the cell.
        used: Joint use in MiB, rounded up.
        excess: Use beyond the declared amount, in MiB.
        pids: The processes that use it.
    """

    parts: tuple[queries.Part, ...]
    used: int
    excess: int
    pids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Excess:
    """Use of a cell beyond the declared amount, by the grants of one process.

    Attributes:
        at_risk: Labels of the other holders of the cell.
        row: The record of the first grant's use, before this excess was reported.
        process: The process that may be ended for it, with its start time: the command of `prefect-slots run` that the
            grant is for, or the task process of a pool that serves it; `None` for every other holder.
    """

    group: Group
    at_risk: tuple[str, ...]
    row: usage.Spent
    process: tuple[int, float] | None

    @property
    def may_be_ended(self) -> bool:
        """There is a process to end, and two looks in a row have shown the excess."""
        return self.process is not None and self.row.over > 1

    def __str__(self) -> str:
        parts, others = self.group.parts, list(self.at_risk[:_NAMED])
        cell = parts[0].cell
        if self.at_risk[_NAMED:]:
            others.append(f"{len(self.at_risk) - _NAMED} more")
        who = ", ".join(part.label for part in parts)
        declared = format_amount(sum(part.declared for part in parts), MIB)
        alone = "nobody else is on that card" if cell.resource == GPU_MEM else "nobody else holds any"
        beside = f"at risk beside it: {', '.join(others)}" if others else alone
        return f"{who} uses {format_amount(self.group.used, MIB)} of {_place(cell)} and declared {declared}; {beside}"


@dataclass(frozen=True, kw_only=True)
class Noted:
    """The consequences of one look.

    Attributes:
        stale: Cells for which no use was told in as many looks as the settings allow; each is reported once.
        excesses: Use beyond the declared amounts.
        suggestions: Sentences about grants that have ended and declared far too much.
    """

    stale: tuple[finding.Stale, ...] = ()
    excesses: tuple[Excess, ...] = ()
    suggestions: tuple[str, ...] = ()


def _place(cell: book.CellId) -> str:
    return f"gpu {cell.number}" if cell.resource == GPU_MEM else cell.resource


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

    def __init__(self, parts: Collection[queries.Part], named: Mapping[int, str], parents: Mapping[int, int]) -> None:
        self.roots = {part.grant: part for part in parts if part.source is None}
        self.by_pid: dict[int | None, list[queries.Part]] = {}
        for part in self.roots.values():
            self.by_pid.setdefault(part.user, []).append(part)
        self._sources = {part.grant: part.source for part in parts if part.source is not None}
        serving = {pid: part.grant for part in parts for pid, _ in part.processes}
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


def groups(belonging: Belonging, processes: Mapping[int, int | None], *, spared: int = 0) -> Iterator[Group]:
    """Yield the grants on a cell with their use, without grants of which a process cannot be read.

    Args:
        belonging: The grants and their processes.
        processes: Bytes that each process uses, `None` where that is not told.
        spared: Bytes of each process that count as no excess, unless the process belongs to a command.
    """
    by_grant: dict[str, list[int]] = {}
    by_holder: dict[int | None, list[int]] = {}
    for pid in processes:
        grant = belonging.grant_of(pid)
        if grant is not None:
            by_grant.setdefault(grant, []).append(pid)
        elif (holder := belonging.holder_of(pid)) is not None:
            by_holder.setdefault(holder, []).append(pid)
    for holder, mine in belonging.by_pid.items():
        # Use that belongs to no single grant of a holder is shared by all of them; without any they are told apart.
        joint = by_holder.get(holder, [])
        for parts in [tuple(mine)] if joint else [(part,) for part in mine]:
            pids = (*joint, *(pid for part in parts for pid in by_grant.get(part.grant, ())))
            told = [used for pid in pids if (used := processes[pid]) is not None]
            if len(told) == len(pids):
                # A task process brings an interpreter along that no task declares; a command is all the grant's own.
                kept = 0 if parts[0].command is not None else spared
                above = sum(max(0, used - kept) for used in told)
                declared = sum(part.declared for part in parts)
                yield Group(parts, bytes_used(sum(told)), max(0, bytes_used(above) - declared), pids)


def judge(tx: transaction.Transaction, found: Iterable[Group], roots: Collection[queries.Part]) -> list[Excess]:
    """Record the use of a cell by grants, and return the excesses.

    Args:
        tx: The ledger.
        found: Their use.
        roots: All holdings of that cell that are not drawn on others.
    """
    known = usage.read_spent(tx)
    excesses: list[Excess] = []
    for group in found:
        rows = [_row(known, part, group) for part in group.parts]
        if group.excess:
            mine = {part.grant for part in group.parts}
            labels = tuple(sorted(part.label for part in roots if part.grant not in mine))
            excesses.append(Excess(group=group, at_risk=labels, row=rows[0], process=_process(tx, group)))
        for row in rows:
            usage.write_spent(tx, replace(row, warned=row.warned or group.excess > 0))
    return excesses


def _row(known: Mapping[tuple[str, book.CellId], usage.Spent], part: queries.Part, group: Group) -> usage.Spent:
    new = usage.Spent(held=part.grant, cell=part.cell, label=part.label, declared=part.declared)
    row = known.get((part.grant, part.cell), new)
    return replace(
        row,
        peak=max(row.peak, group.used),
        looks=row.looks + 1,
        together=row.together or len(group.parts) > 1,
        over=row.over + 1 if group.excess else 0,
    )


def _process(tx: transaction.Transaction, group: Group) -> tuple[int, float] | None:
    """Return the process that may be ended for a single grant without the loss of another grant's task.

    It is the task process that serves the grant, or the command that the grant is for if its owner holds nothing else.
    """
    (part, *others) = group.parts
    if others:
        return None
    if part.processes:
        return part.processes[0]
    return part.command if queries.grants_beside(tx, part.grant) == 1 else None


def suggestions(tx: transaction.Transaction) -> tuple[str, ...]:
    """Return suggestions for grants that have ended, and delete the records of their use."""
    return tuple(_suggestion(spent) for spent in usage.take_ended(tx) if _is_far_off(spent))


def _is_far_off(spent: usage.Spent) -> bool:
    too_much = spent.declared >= _MUCH * spent.peak and spent.declared - spent.peak >= _MUCH_MIB
    # The processes of a grant without any use may not have been recognized as its own.
    return too_much and spent.peak > 0 and spent.looks >= _LOOKS and not spent.together


def _suggestion(spent: usage.Spent) -> str:
    # A tenth more than the peak, in whole GiB.
    enough = -(-spent.peak * 11 // 10 // 1024)
    return (
        f"{spent.label} declared {format_amount(spent.declared, MIB)} of {_place(spent.cell)} and used at most "
        f"{format_amount(spent.peak, MIB)} in {spent.looks} looks; {spent.cell.resource}={enough} might do"
    )


def note_signal(tx: transaction.Transaction, excess: Excess) -> None:
    """Record that the process of an excess is sent a signal."""
    rows = usage.read_spent(tx)
    for part in excess.group.parts:
        if (row := rows.get((part.grant, part.cell))) is not None:
            usage.write_spent(tx, replace(row, signals=row.signals + 1))


def end(pid: int, started: float, *, by_force: bool) -> str:
    """Ask a process and its descendants to end, by SIGTERM or, if that was in vain, by SIGKILL.

    A process that only has the same number, started at another time, is left alone. So is every process above it: its
    parent, which gives the grant back, and this process itself.

    Returns:
        A description of the deed for people; empty if there is nothing to end any more.
    """
    try:
        # No grant's: 0 is the kernel's number, 1 the first process, and this process gives the grant back.
        root = psutil.Process(pid)
        if pid in (0, 1, os.getpid()) or not same_start(root.create_time(), started):
            return ""
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return ""
    number = signal.SIGKILL if by_force else signal.SIGTERM
    ended: list[str] = []
    for process in family:
        try:
            process.send_signal(number)
            ended.append(str(process.pid))
        except psutil.AccessDenied:
            return f"its process {process.pid} belongs to another user, who alone may end it"
        except psutil.Error:
            continue
    return f"sent {number.name} to its process {', '.join(ended)}" if ended else ""

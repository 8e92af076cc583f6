"""Declared against used: what the processes of a grant use of a cell's memory, and what the grant declared of it.

A process's memory is that of the grant it was started under, as its environment says, else of its nearest ancestor that
holds something of the cell or is a task process that serves a grant. Grants that one process holds side by side are
told apart only as far as that allows.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import psutil

from prefect_slots.ledger import queries, usage
from prefect_slots.ledger.queries import Part
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.ledger.usage import Spent
from prefect_slots.model.amount import MIB, bytes_used, format_amount
from prefect_slots.model.book import CellId
from prefect_slots.model.resource import GPU_MEM
from prefect_slots.system.processes import same_start
from prefect_slots.usage.attribution import Belonging

_MUCH: Final = 2
_MUCH_MIB: Final = 2048
_LOOKS: Final = 3
_NAMED: Final = 5
"""Of so many neighbours the names are told: the whole machine is at risk when its memory is."""


@dataclass(frozen=True)
class Group:
    """Grants of one process on one cell, mostly one, with what is used by them all.

    Attributes:
        used: In MiB, rounded up.
        excess: So many MiB of it are more than they declared.
        pids: Whose memory that is.
    """

    parts: tuple[Part, ...]
    used: int
    excess: int
    pids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Excess:
    """Grants of one process, mostly one, that use more of a cell than they declared.

    Attributes:
        mib: So much more.
        at_risk: Who else holds something of the cell.
        warned: Whether this was told before.
        looks: How often in a row it was seen.
        signals: How often that process was asked to end for it.
        process: The one that may be ended for it: the command of `prefect-slots run` that the grant is for, or the
            task process of a pool that serves it, and nothing else; `None` for every other holder.
    """

    parts: tuple[Part, ...]
    used: int
    mib: int
    at_risk: tuple[str, ...]
    warned: bool
    looks: int
    signals: int
    process: tuple[int, float] | None

    @property
    def may_be_ended(self) -> bool:
        """Whether two looks in a row have shown it, and there is a process to end."""
        return self.process is not None and self.looks > 1

    def __str__(self) -> str:
        cell = self.parts[0].cell
        who = ", ".join(part.label for part in self.parts)
        declared = format_amount(sum(part.declared for part in self.parts), MIB)
        others = [*self.at_risk[:_NAMED], *([f"{len(self.at_risk) - _NAMED} more"] if self.at_risk[_NAMED:] else [])]
        alone = "nobody else is on that card" if cell.resource == GPU_MEM else "nobody else holds any"
        beside = f"at risk beside it: {', '.join(others)}" if others else alone
        return f"{who} uses {format_amount(self.used, MIB)} of {_place(cell)} and declared {declared}; {beside}"


def _place(cell: CellId) -> str:
    return f"gpu {cell.number}" if cell.resource == GPU_MEM else cell.resource


def groups(belonging: Belonging, processes: Mapping[int, int | None], *, spared: int = 0) -> Iterator[Group]:
    """Yield the grants on a cell with what they use; those of which something is not told are left out.

    Args:
        belonging: To which grants a process belongs.
        processes: Bytes of each process, `None` where that is not told.
        spared: Bytes of each process that no excess is made of, but for processes of a command.
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
        joint = by_holder.get(holder, [])
        for parts in [tuple(mine)] if joint else [(part,) for part in mine]:
            pids = (*joint, *(pid for part in parts for pid in by_grant.get(part.grant, ())))
            amounts = [processes[pid] for pid in pids]
            told = [amount for amount in amounts if amount is not None]
            if len(told) == len(amounts):
                kept = 0 if parts[0].command is not None else spared
                above = sum(max(0, amount - kept) for amount in told)
                declared = sum(part.declared for part in parts)
                yield Group(parts, bytes_used(sum(told)), max(0, bytes_used(above) - declared), pids)


def judge(tx: Transaction, found: Iterable[Group], roots: Iterable[Part]) -> list[Excess]:
    """Write down what grants use of a cell, and return those that use more than they declared.

    Args:
        tx: The ledger.
        found: What they use.
        roots: All that is held of that cell by its own right.
    """
    everybody = tuple(roots)
    known = usage.read_spent(tx)
    excesses: list[Excess] = []
    for group in found:
        rows = [_row(known, part, group) for part in group.parts]
        if group.excess:
            mine = {part.grant for part in group.parts}
            labels = tuple(sorted(part.label for part in everybody if part.grant not in mine))
            excesses.append(_excess(tx, group, rows[0], labels))
            rows = [replace(row, warned=True) for row in rows]
        for row in rows:
            usage.write_spent(tx, row)
    return excesses


def _row(known: Mapping[tuple[str, CellId], Spent], part: Part, group: Group) -> Spent:
    new = Spent(held=part.grant, cell=part.cell, label=part.label, declared=part.declared)
    row = known.get((part.grant, part.cell), new)
    return replace(
        row,
        peak=max(row.peak, group.used),
        looks=row.looks + 1,
        together=row.together or len(group.parts) > 1,
        over=row.over + 1 if group.excess else 0,
    )


def _excess(tx: Transaction, group: Group, row: Spent, at_risk: tuple[str, ...]) -> Excess:
    return Excess(
        parts=group.parts,
        used=group.used,
        mib=group.excess,
        at_risk=at_risk,
        warned=row.warned,
        looks=row.over,
        signals=row.signals,
        process=_process(tx, group),
    )


def _process(tx: Transaction, group: Group) -> tuple[int, float] | None:
    """Return the process that may be ended for a single grant: nobody else's task may be lost with it.

    It is the task process that serves it, or the command that it is for, if its owner holds nothing else.
    """
    (part, *others) = group.parts
    if part.processes and not others:
        return part.processes[0]
    if others or part.command is None:
        return None
    return part.command if queries.grants_beside(tx, part.grant) == 1 else None


def suggestions(tx: Transaction) -> list[str]:
    """Return what grants that have ended might have declared, and forget them."""
    return [_suggestion(spent) for spent in usage.take_ended(tx) if _is_far_off(spent)]


def _is_far_off(spent: Spent) -> bool:
    too_much = spent.declared >= _MUCH * spent.peak and spent.declared - spent.peak >= _MUCH_MIB
    # Of a grant that was never seen to use anything it is not known whether its processes were recognised.
    return too_much and spent.peak > 0 and spent.looks >= _LOOKS and not spent.together


def _suggestion(spent: Spent) -> str:
    enough = -(-spent.peak * 11 // 10 // 1024)
    return (
        f"{spent.label} declared {format_amount(spent.declared, MIB)} of {_place(spent.cell)} and used at most "
        f"{format_amount(spent.peak, MIB)} in {spent.looks} looks; {spent.cell.resource}={enough} might do"
    )


def end(pid: int, started: float, *, by_force: bool) -> str:
    """Ask the process and its descendants to end, by SIGTERM or, if that was in vain, by SIGKILL.

    A process that has its number but was started at another time is somebody else's and is left alone, and so is any
    process above it: who started it, which gives the grant back, and this process itself.

    Returns:
        What was done, for people; empty if there is nothing to end any more.
    """
    try:
        root = psutil.Process(pid)
        if not same_start(root.create_time(), started) or pid in (0, 1, os.getpid()):
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

"""Declared against used: what the processes of a grant use of its card, and what the grant declared of it.

A process's memory is that of the grant it was started under, as its environment says, else of its nearest ancestor that
holds something of the card. Grants that one process holds side by side are told apart only as far as that allows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from prefect_slots.detect.use import Process
from prefect_slots.ledger import spending
from prefect_slots.ledger.spending import Spent
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.model.amount import MIB, format_amount
from prefect_slots.watching.card_holders import Ours, Part

_MIB: Final = 2**20
_MUCH: Final = 2
_MUCH_MIB: Final = 2048
_LOOKS: Final = 3
_log = logging.getLogger("prefect_slots")


@dataclass(frozen=True, kw_only=True)
class Excess:
    """Grants of one process, mostly one, that use more of a card than they declared.

    Attributes:
        mib: So much more.
        at_risk: Who else holds something of the card.
        warned: Whether this was told before.
        looks: How often in a row it was seen.
        signals: How often the command was asked to end for it.
        command: The process that may be ended for it: the command of `prefect-slots run` that the grant is for, and
            nothing else; `None` for every other holder.
    """

    parts: tuple[Part, ...]
    used: int
    mib: int
    at_risk: tuple[str, ...]
    warned: bool
    looks: int
    signals: int
    command: tuple[int, float] | None

    @property
    def may_be_ended(self) -> bool:
        """Whether two looks in a row have shown it, and there is a command to end."""
        return self.command is not None and self.looks > 1

    def __str__(self) -> str:
        first = self.parts[0]
        who = ", ".join(part.label for part in self.parts)
        declared = format_amount(sum(part.declared for part in self.parts), MIB)
        beside = f"; at risk beside it: {', '.join(self.at_risk)}" if self.at_risk else "; nobody else is on that card"
        return f"{who} uses {format_amount(self.used, MIB)} of gpu {first.number} and declared {declared}{beside}"


@dataclass(frozen=True)
class _Group:
    """Grants of one process on one card, with what is used by them all."""

    parts: tuple[Part, ...]
    used: int


def compare(
    tx: Transaction,
    number: int,
    processes: Mapping[int, int | None],
    parts: Iterable[Part],
    ours: Ours,
    lineage: Mapping[int, Process],
) -> list[Excess]:
    """Write down what grants use of a card, and return those that use more than they declared."""
    here = [part for part in parts if part.number == number]
    roots = {part.grant: part for part in here if part.source is None}
    known = spending.read(tx)
    found: list[Excess] = []
    for group in _groups(processes, roots, _sources(here), ours, lineage):
        declared = sum(part.declared for part in group.parts)
        over = group.used > declared
        rows = [_row(known, part, group, over=over) for part in group.parts]
        if over:
            labels = tuple(sorted(part.label for part in roots.values() if part not in group.parts))
            found.append(_excess(tx, group, rows[0], group.used - declared, labels))
            rows = [replace(row, warned=True) for row in rows]
        for row in rows:
            spending.write(tx, row)
    return found


def _sources(parts: Iterable[Part]) -> dict[str, str]:
    return {part.grant: part.source for part in parts if part.source is not None}


def _groups(
    processes: Mapping[int, int | None],
    roots: Mapping[str, Part],
    sources: Mapping[str, str],
    ours: Ours,
    lineage: Mapping[int, Process],
) -> Iterator[_Group]:
    """Yield the grants on a card with what they use; those of which something is not told are left out."""
    by_pid: dict[int | None, list[Part]] = {}
    for part in roots.values():
        by_pid.setdefault(part.pid, []).append(part)
    exact: dict[str, int | None] = {}
    joint: dict[int | None, int | None] = {}
    for pid, used in processes.items():
        grant = ours.grant_of(pid)
        while grant in sources:
            grant = sources[grant]
        if grant in roots:
            exact[grant] = _plus(exact.get(grant, 0), used)
            continue
        holder: int | None = pid
        while holder is not None and holder not in by_pid:
            holder = lineage[holder].parent if holder in lineage else None
        if holder is not None:
            joint[holder] = _plus(joint.get(holder, 0), used)
    for pid, mine in by_pid.items():
        groups = [tuple(mine)] if pid in joint else [(part,) for part in mine]
        for group in groups:
            used = joint.get(pid, 0)
            for part in group:
                used = _plus(used, exact.get(part.grant, 0))
            if used is not None:
                yield _Group(group, -(-used // _MIB))


def _plus(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _row(known: Mapping[tuple[str, int], Spent], part: Part, group: _Group, *, over: bool) -> Spent:
    new = Spent(held=part.grant, number=part.number, label=part.label, declared=part.declared)
    row = known.get((part.grant, part.number), new)
    return replace(
        row,
        peak=max(row.peak, group.used),
        looks=row.looks + 1,
        together=row.together or len(group.parts) > 1,
        over=row.over + 1 if over else 0,
    )


def _excess(tx: Transaction, group: _Group, row: Spent, mib: int, at_risk: tuple[str, ...]) -> Excess:
    return Excess(
        parts=group.parts,
        used=group.used,
        mib=mib,
        at_risk=at_risk,
        warned=row.warned,
        looks=row.over,
        signals=row.signals,
        command=_command(tx, group),
    )


def _command(tx: Transaction, group: _Group) -> tuple[int, float] | None:
    """Return the command that a single grant is for, if its owner holds nothing else and runs nothing else."""
    (part, *others) = group.parts
    if others or part.command is None:
        return None
    row = tx.one(
        "SELECT COUNT(*) FROM held WHERE source IS NULL AND owner=(SELECT owner FROM held WHERE id=?)", part.grant
    )
    return part.command if row == (1,) else None


def suggestions(tx: Transaction) -> list[str]:
    """Return what grants that have ended might have declared, and forget them."""
    ended = {row[0] for row in tx.all("SELECT DISTINCT held FROM spent WHERE held NOT IN (SELECT id FROM held)")}
    said = [_suggestion(spent) for spent in spending.read(tx).values() if spent.held in ended and _is_far_off(spent)]
    if ended:
        spending.drop_ended(tx)
    return said


def _is_far_off(spent: Spent) -> bool:
    too_much = spent.declared >= _MUCH * spent.peak and spent.declared - spent.peak >= _MUCH_MIB
    # Of a grant that was never seen to use its card at all it is not known whether its processes were recognised.
    return too_much and spent.peak > 0 and spent.looks >= _LOOKS and not spent.together


def _suggestion(spent: Spent) -> str:
    enough = -(-spent.peak * 11 // 10 // 1024)
    return (
        f"{spent.label} declared {format_amount(spent.declared, MIB)} of gpu {spent.number} and used at most "
        f"{format_amount(spent.peak, MIB)} in {spent.looks} looks; gpu_mem={enough} might do"
    )

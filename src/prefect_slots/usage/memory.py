"""One look at the host's memory: what grants that declared some use of it, written into the ledger.

Nobody's memory is looked at but that of processes which belong to such a grant.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from prefect_slots.ledger import queries
from prefect_slots.ledger.queries import Part
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.model.book import TOKEN
from prefect_slots.model.resource import MEM
from prefect_slots.system.processes import (
    ProcessInfo,
    is_running,
    query_resident,
    query_share,
    query_table,
    query_variable,
    same_start,
)
from prefect_slots.usage.attribution import Belonging, grants_named
from prefect_slots.usage.overuse import Excess, Group, groups, judge, suggestions

STARTUP_BYTES: Final = 256 * 2**20
"""What an interpreter and its libraries may take of each process before a task has begun, which no task declares."""
_REST: Final = 20
"""So many times as long as it took, nobody's share is asked for again: at most a twentieth of one core is spent."""


@dataclass(frozen=True, kw_only=True)
class MemoryNoted:
    """What a look means: grants that use more than they declared, and what ended ones might have declared."""

    excesses: tuple[Excess, ...]
    suggestions: tuple[str, ...]


def note_memory(tx: Transaction, found: Iterable[Group]) -> MemoryNoted:
    """Write down what was seen; what was seen of a grant that has ended meanwhile is nobody's excess."""
    parts = queries.holdings(tx, MEM)
    held = {part.grant for part in parts}
    roots = [part for part in parts if part.source is None]
    still = [group for group in found if held.issuperset(part.grant for part in group.parts)]
    return MemoryNoted(excesses=tuple(judge(tx, still, roots)), suggestions=tuple(suggestions(tx)))


def read_memory(parts: Iterable[Part], ledger: str, rests: dict[int, float]) -> tuple[Group, ...]:
    """Return what grants use of the host's memory, without those of which something is not told.

    What processes have resident is never less than their share of it and costs next to nothing, so the share is asked
    for only where grants seem to use more than they declared, and not again before a rest.

    Args:
        parts: What grants hold of it.
        ledger: The id of their ledger.
        rests: Until when whose share is not asked for; kept from look to look.
    """
    running = query_table()
    belonging = _belonging(tuple(parts), ledger, running)
    members = [pid for pid in running if belonging.grant_of(pid) or belonging.holder_of(pid) is not None]
    resident = {pid: query_resident(pid) for pid in members}
    found: list[Group] = []
    for group in groups(belonging, resident, spared=STARTUP_BYTES):
        if not group.excess:
            found.append(group)
        elif time.monotonic() >= rests.get(group.pids[0], 0.0):
            found += _by_share(belonging, group, rests)
    return tuple(group for group in found if group.pids)


def _belonging(parts: tuple[Part, ...], ledger: str, running: dict[int, ProcessInfo]) -> Belonging:
    oldest = min((part.started for part in parts if part.pid is not None), default=0.0)
    young = [pid for pid, each in running.items() if each.started > oldest or same_start(each.started, oldest)]
    named = grants_named(query_variable(TOKEN, young), ledger)
    parents = {pid: each.parent for pid, each in running.items()}
    return Belonging((_rooted(part, running) for part in parts), named, parents)


def _by_share(belonging: Belonging, seeming: Group, rests: dict[int, float]) -> Iterator[Group]:
    began = time.monotonic()
    shares = {pid: query_share(pid) for pid in seeming.pids}
    now = time.monotonic()
    for ended in [pid for pid, until in rests.items() if until < now]:
        del rests[ended]
    rests[seeming.pids[0]] = now + _REST * (now - began)
    for group in groups(belonging, shares, spared=STARTUP_BYTES):
        if group.parts == seeming.parts:
            yield group


def _rooted(part: Part, running: dict[int, ProcessInfo]) -> Part:
    """Let a part be that of the processes whose descendants use it, for the owner its command; not of namesakes."""
    pid, started = part.command or (part.pid, part.started)
    return replace(
        part,
        pid=pid if pid is not None and is_running(pid, started, running) else None,
        processes=tuple(each for each in part.processes if is_running(*each, running)),
    )

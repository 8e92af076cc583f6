"""A look at the host's memory, written into the ledger: the use by grants that declared some of it.

Only processes that belong to such a grant are looked at.
"""

import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from prefect_slots.ledger import queries, transaction
from prefect_slots.model import book, resource
from prefect_slots.system import processes
from prefect_slots.usage import overuse

# An interpreter and its libraries may take this much of each process before a task begins, and no task declares it.
STARTUP_BYTES = 256 * 2**20
# A share is not read again until this many times the time that reading took has passed: at most a twentieth of one core
# is spent on it.
_REST = 20


def note_memory(tx: transaction.Transaction, found: Iterable[overuse.Group]) -> overuse.Noted:
    """Record a reading of grants' use; use by a grant that has ended since is no excess."""
    parts = queries.holdings(tx, resource.MEM)
    held = {part.grant for part in parts}
    still = [group for group in found if held.issuperset(part.grant for part in group.parts)]
    excesses = overuse.judge(tx, still, [part for part in parts if part.source is None])
    return overuse.Noted(excesses=tuple(excesses), suggestions=overuse.suggestions(tx))


def read_memory(parts: Collection[queries.Part], ledger: str, rests: dict[int, float]) -> tuple[overuse.Group, ...]:
    """Return the use of the host's memory by grants, without grants of which a process cannot be read.

    Resident memory is never less than the share of it and costs next to nothing to read. So the share is read only
    where grants seem to use more than they declared, and not again before a rest.

    Args:
        parts: Holdings of host memory.
        ledger: The id of their ledger.
        rests: End of each process's rest, on the monotonic clock; kept from look to look.
    """
    table = processes.query_table()
    oldest = min((part.started for part in parts if part.pid is not None), default=0.0)
    # No process that is older than all holders was started under a grant: most of a machine's need not be read.
    young = [pid for pid, info in table.items() if info.started > oldest or processes.same_start(info.started, oldest)]
    named = overuse.grants_named(processes.query_variable(book.TOKEN, young), ledger)
    parents = {pid: info.parent for pid, info in table.items()}
    belonging = overuse.Belonging([_rooted(part, table) for part in parts], named, parents)
    members = [pid for pid in table if belonging.grant_of(pid) or belonging.holder_of(pid) is not None]
    resident = {pid: processes.query_resident(pid) for pid in members}
    found: list[overuse.Group] = []
    for group in overuse.groups(belonging, resident, spared=STARTUP_BYTES):
        if not group.excess:
            found.append(group)
        elif time.monotonic() >= rests.get(group.pids[0], 0.0):
            found += _by_share(belonging, group, rests)
    # Of a grant without a process nothing was seen, which is not the same as no use.
    return tuple(group for group in found if group.pids)


def _by_share(belonging: overuse.Belonging, seeming: overuse.Group, rests: dict[int, float]) -> Iterator[overuse.Group]:
    began = time.monotonic()
    shares = {pid: processes.query_share(pid) for pid in seeming.pids}
    now = time.monotonic()
    # Processes come and go: rests that are over would pile up.
    for ended in [pid for pid, until in rests.items() if until < now]:
        del rests[ended]
    rests[seeming.pids[0]] = now + _REST * (now - began)
    for group in overuse.groups(belonging, shares, spared=STARTUP_BYTES):
        if group.parts == seeming.parts:
            yield group


def _rooted(part: queries.Part, table: dict[int, processes.ProcessInfo]) -> queries.Part:
    """Root a part at the processes that use it, for an owner with a command at that, without reused process ids."""
    pid, started = part.command or (part.pid, part.started)
    return replace(
        part,
        pid=pid if pid is not None and processes.is_running(pid, started, table) else None,
        processes=tuple(each for each in part.processes if processes.is_running(*each, table)),
    )

"""Foreign use: slots of this machine's limits that others occupy, and tickets that were refused because of them.

Foreign use of the machine's own limits becomes a fact in the ledger, which then grants no more than is left. A limit
that a person lowered or switched off leaves as little as foreign use of the difference would. Use of the fleet's limits
is noted only where the ledger needs it: people outside use seats too, which the server does not count, a refused ticket
has alternatives, or a person lowered the limit. A refused ticket waits aside until its limit has room, then takes its
place in the queue again.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from prefect_slots.errors import SlotsError
from prefect_slots.leases.reconcile import Count
from prefect_slots.ledger import changed, queries, registry, store, transaction
from prefect_slots.ledger.changed import ChangedLimit
from prefect_slots.limits import naming
from prefect_slots.limits.gateway import Gateway
from prefect_slots.limits.outcome import ExistingLimit
from prefect_slots.model import CellId, Changed, LimitUnit, Scope, Stock
from prefect_slots.scheduling.placement import CellUse, spread

# Prefect's server writes events in batches, every few seconds.
_EVENTS_LATE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class LimitUse:
    """One limit as the server counts it.

    Attributes:
        name: Its name.
        found: The limit.
        foreign: Slots occupied by others than this ledger, at least.
    """

    name: str
    found: ExistingLimit
    foreign: int

    def taken(self, capacity: int) -> int:
        """Return the part of a capacity that is not this ledger's to grant."""
        return max(0, capacity - self.found.room + self.foreign)


async def read(gateway: Gateway, name: str) -> LimitUse | None:
    """Read a limit and this ledger's part of it; `None` if one of them is missing."""
    before = await gateway.read(gateway.mirror(name))
    limit = await gateway.read(name)
    after = await gateway.read(gateway.mirror(name))
    if limit is None or before is None or after is None:
        return None
    # Our own calls go on meanwhile, and a slot that may be ours must not be called foreign.
    count = Count(active=limit.active_slots, mirror=max(before.active_slots, after.active_slots))
    return LimitUse(name=name, found=limit, foreign=count.foreign)


def resources_behind(registered: registry.Registered, names: Collection[str]) -> set[str]:
    """Return the resources that any of these limits counts."""
    return {
        stock.resource
        for stock in registered.stocks
        if not {spec.name for spec in naming.specs(registered.machine or "", [stock])}.isdisjoint(names)
    }


async def _read_cell(gateway: Gateway, machine: registry.Registered, stock: Stock, cell: int | None) -> list[LimitUse]:
    unit = LimitUnit(scope=stock.scope, resource=stock.resource, cell=cell, weight=1)
    read_now = [await read(gateway, name) for name in naming.names_of(unit, machine.machine or "")]
    return [use for use in read_now if use is not None]


async def read_fleet(ledger: store.Ledger, gateway: Gateway, resources: Collection[str]) -> dict[str, int]:
    """Return the foreign use of these resources of the whole fleet, in their units.

    Raises:
        ServerUnreachable: if the server does not answer.
    """
    registered = ledger.read(registry.registered)
    found: dict[str, int] = {}
    for stock in registered.stocks:
        if stock.resource in resources and stock.scope is Scope.FLEET:
            uses = await _read_cell(gateway, registered, stock, None)
            if uses:
                found[stock.resource] = _taken(uses, sum(capacity for _, capacity in stock.cells))
    return found


async def note_foreign_use(
    ledger: store.Ledger, gateway: Gateway, resources: Collection[str], *, shared: Collection[str] = ()
) -> bool:
    """Record the foreign use of these resources; return whether it changed.

    Args:
        ledger: Ledger to write to.
        gateway: Gateway to the counting server.
        resources: Names of resources to look at.
        shared: Resources of the fleet whose foreign use the ledger needs from now on.

    Raises:
        ServerUnreachable: if the server does not answer.
    """
    registered = ledger.read(registry.registered)
    per_cell = naming.cells_counted(registered.stocks)
    known = {*_used_by_others(registered), *shared}
    facts: dict[tuple[str, int | None], list[LimitUse]] = {}
    for stock in registered.stocks:
        if stock.resource in resources and (stock.scope is Scope.WORKER or stock.resource in known):
            numbers = [number for number, _ in stock.cells] if stock.resource in per_cell else []
            for number in [None, *numbers]:
                facts[stock.resource, number] = await _read_cell(gateway, registered, stock, number)
    lowered = await _lowered(ledger, gateway, registered, facts)
    return ledger.transact(lambda tx: _write(tx, registered, facts, lowered))


async def _lowered(
    ledger: store.Ledger,
    gateway: Gateway,
    registered: registry.Registered,
    facts: dict[tuple[str, int | None], list[LimitUse]],
) -> dict[str, ChangedLimit | None]:
    """Return the limits that were read: those that leave this machine less than it has, and `None` for the others."""
    ours = {spec.name: spec.limit for spec in naming.specs(registered.machine or "", registered.stocks)}
    known = {each.limit: each for each in ledger.read(changed.read)}
    judged: dict[str, ChangedLimit | None] = {}
    for (resource, _), uses in facts.items():
        for use in uses:
            found = use.found
            if found.room >= ours.get(use.name, 0):
                judged[use.name] = None
                continue
            now = ChangedLimit(
                limit=use.name, resource=resource, ours=ours[use.name], theirs=found.limit, active=found.active
            )
            before = known.get(use.name)
            # The server stores its events late, and an old one or a bare one never: it is asked for a while.
            if before is None or (before.since is None and time.time() - before.seen_at < _EVENTS_LATE_SECONDS):
                with suppress(SlotsError):
                    if (last := await gateway.last_change(use.name, found)) is not None:
                        now = replace(now, since=last[0], by=last[1])
            judged[use.name] = now
    return judged


def _write(
    tx: transaction.Transaction,
    registered: registry.Registered,
    facts: dict[tuple[str, int | None], list[LimitUse]],
    lowered: dict[str, ChangedLimit | None],
) -> bool:
    changed.note(tx, lowered)
    held: Counter[CellId] = Counter()
    for part in queries.holdings(tx):
        if part.source is None:
            held[part.cell] += part.declared
    news = 0
    for stock in registered.stocks:
        if (stock.resource, None) not in facts:
            continue
        cells = [
            CellUse(
                number=number,
                capacity=capacity,
                held=held[CellId(stock.resource, number)],
                foreign=_taken(facts.get((stock.resource, number), []), capacity),
            )
            for number, capacity in stock.cells
        ]
        in_all = _taken(facts[stock.resource, None], sum(capacity for _, capacity in stock.cells))
        for number, foreign in spread(cells, in_all).items():
            news += registry.note_counted(tx, CellId(stock.resource, number), foreign)
    if news:
        registry.note_change(tx)
        tx.apply(Changed())
    return news > 0


def _used_by_others(registered: registry.Registered) -> set[str]:
    return {name for name in registered.names if any(cell.foreign for cell in registered.cells(name))}


def watched(tx: transaction.Transaction) -> set[str]:
    """Return the resources with foreign use, or with some that may begin at any moment."""
    registered = registry.registered(tx)
    fleet = {name for name in _used_by_others(registered) if registered.scopes[name] is Scope.FLEET}
    return fleet | {cell.resource for cell in registry.counted(tx)}


def _taken(uses: Iterable[LimitUse], capacity: int) -> int:
    return max((use.taken(capacity) for use in uses), default=0)


async def resume_refused(ledger: store.Ledger, gateway: Gateway) -> bool:
    """Put tickets that the server refused back into the queue where their limit has room now.

    Returns:
        True if tickets waited aside at the start.

    Raises:
        ServerUnreachable: if the server does not answer.
    """
    names = ledger.read(lambda tx: tx.blocked_limits())
    for name in names:
        limit = await gateway.read(name)
        # A missing limit counts nothing: the next attempt gets the server's own error.
        room = None if limit is None else limit.room - limit.active_slots
        ledger.transact(lambda tx, on=name, left=room: _resume(tx, on, left))
    return bool(names)


def _resume(tx: transaction.Transaction, name: str, room: int | None) -> None:
    registered = registry.registered(tx)
    for ticket in tx.blocked_on(name):
        wanted = _wanted(tx, ticket, name, registered)
        # The room is shared out in turn: without that, all would be resumed for one slot and refused again.
        if room is not None:
            if wanted > room:
                continue
            room -= wanted
        tx.resume(ticket)


def _wanted(tx: transaction.Transaction, ticket: str, name: str, registered: registry.Registered) -> int:
    """Return the least that a ticket may want of a limit: placement may choose cells that need less of it, not more."""
    scopes = registered.scopes
    capacities = {stock.resource: dict(stock.cells) for stock in registered.stocks}
    least: list[int] = []
    for demand in tx.requirement(ticket).all_demands:
        if demand.resource in scopes:
            unit = LimitUnit(scope=scopes[demand.resource], resource=demand.resource, cell=None, weight=1)
            if name in naming.names_of(unit, registered.machine or ""):
                least.append(demand.cells * min(map(demand.on, capacities[demand.resource].values()), default=0))
    return min(least, default=1)

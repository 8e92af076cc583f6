"""Foreign use: slots of this machine's limits that others occupy, and tickets that were refused because of them.

Foreign use of the machine's own limits becomes a fact in the ledger, which then grants no more than is left. Use of the
fleet's limits is noted only where the ledger needs it: people outside use seats too, which the server does not count,
or a refused ticket has alternatives. A refused ticket waits aside until its limit has room, then takes its place in the
queue again.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from prefect_slots.leases.reconcile import Count
from prefect_slots.ledger import queries, registry, store, transaction
from prefect_slots.limits import naming
from prefect_slots.limits.gateway import Gateway
from prefect_slots.model import CellId, Changed, LimitUnit, Scope, Stock
from prefect_slots.scheduling.placement import CellUse, spread


@dataclass(frozen=True, kw_only=True)
class LimitUse:
    """One limit as the server counts it.

    Attributes:
        limit: Slots in all.
        foreign: Slots occupied by others than this ledger, at least.
    """

    limit: int
    foreign: int


async def read(gateway: Gateway, name: str) -> LimitUse | None:
    """Read a limit and this ledger's part of it; `None` if it is missing or switched off, so that it counts nothing."""
    before = await gateway.read(gateway.mirror(name))
    limit = await gateway.read(name)
    after = await gateway.read(gateway.mirror(name))
    if limit is None or not limit.active or before is None or after is None:
        return None
    # Our own calls go on meanwhile, and a slot that may be ours must not be called foreign.
    count = Count(active=limit.active_slots, mirror=max(before.active_slots, after.active_slots))
    return LimitUse(limit=limit.limit, foreign=count.foreign)


def resources_behind(registered: registry.Registered, names: Collection[str]) -> set[str]:
    """Return the resources that any of these limits counts."""
    return {
        stock.resource
        for stock in registered.stocks
        if not {spec.name for spec in naming.specs(registered.machine or "", [stock])}.isdisjoint(names)
    }


async def _read_cell(gateway: Gateway, machine: registry.Registered, stock: Stock, cell: int | None) -> LimitUse | None:
    # An equal limit of the machine stands behind a fleet's one; only the first counts other machines too.
    unit = LimitUnit(scope=stock.scope, resource=stock.resource, cell=cell, weight=1)
    return await read(gateway, naming.names_of(unit, machine.machine or "")[0])


async def read_fleet(ledger: store.Ledger, gateway: Gateway, resources: Collection[str]) -> dict[str, int]:
    """Return the foreign use of these resources of the whole fleet, in their units.

    Raises:
        ServerUnreachable: if the server does not answer.
    """
    registered = ledger.read(registry.registered)
    found: dict[str, int] = {}
    for stock in registered.stocks:
        if stock.resource in resources and stock.scope is Scope.FLEET:
            reading = await _read_cell(gateway, registered, stock, None)
            if reading is not None:
                found[stock.resource] = _taken(reading, sum(capacity for _, capacity in stock.cells))
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
    facts: dict[tuple[str, int | None], LimitUse] = {}
    for stock in registered.stocks:
        if stock.resource in resources and (stock.scope is Scope.WORKER or stock.resource in known):
            numbers = [number for number, _ in stock.cells] if stock.resource in per_cell else []
            for number in [None, *numbers]:
                if (reading := await _read_cell(gateway, registered, stock, number)) is not None:
                    facts[stock.resource, number] = reading
    return ledger.transact(lambda tx: _write(tx, registered, facts))


def _write(
    tx: transaction.Transaction, registered: registry.Registered, facts: dict[tuple[str, int | None], LimitUse]
) -> bool:
    held: Counter[CellId] = Counter()
    for part in queries.holdings(tx):
        if part.source is None:
            held[part.cell] += part.declared
    changed = 0
    for stock in registered.stocks:
        total = facts.get((stock.resource, None))
        if total is None:
            continue
        # A lowered limit leaves as little as foreign use of the difference would.
        cells = [
            CellUse(
                number=number,
                capacity=capacity,
                held=held[CellId(stock.resource, number)],
                foreign=_taken(facts.get((stock.resource, number)), capacity),
            )
            for number, capacity in stock.cells
        ]
        in_all = _taken(total, sum(capacity for _, capacity in stock.cells))
        for number, foreign in spread(cells, in_all).items():
            changed += registry.note_counted(tx, CellId(stock.resource, number), foreign)
    if changed:
        registry.note_change(tx)
        tx.apply(Changed())
    return changed > 0


def _used_by_others(registered: registry.Registered) -> set[str]:
    return {name for name in registered.names if any(cell.foreign for cell in registered.cells(name))}


def watched(tx: transaction.Transaction) -> set[str]:
    """Return the resources with foreign use, or with some that may begin at any moment."""
    registered = registry.registered(tx)
    fleet = {name for name in _used_by_others(registered) if registered.scopes[name] is Scope.FLEET}
    return fleet | {cell.resource for cell in registry.counted(tx)}


def _taken(reading: LimitUse | None, capacity: int) -> int:
    return 0 if reading is None else max(0, capacity - reading.limit + reading.foreign)


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
        # A missing or inactive limit counts nothing: the next attempt gets the server's own error.
        room = None if limit is None or not limit.active else limit.limit - limit.active_slots
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

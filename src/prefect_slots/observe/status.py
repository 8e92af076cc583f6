"""Who holds which cell since when, who waits for what and why: read from the ledger, as plain data.

Rendering is the command line's; nothing here prints.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from prefect_slots.ledger import queries, registry, usage
from prefect_slots.ledger.store import Ledger
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.model.amount import Exclusive
from prefect_slots.model.book import CellId
from prefect_slots.model.requirement import Requirement
from prefect_slots.scheduling.explain import is_stranded, shortages


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Part of a cell that is held.

    Attributes:
        since: A Unix time in seconds.
        drawn: It is drawn on another grant.
        peak: The most memory that its processes were seen to use; `None` where nobody has looked, or where its process
            holds other grants beside it and theirs cannot be told apart.
    """

    grant: str
    label: str
    pid: int
    amount: int
    since: float
    drawn: bool
    peak: int | None = None


@dataclass(frozen=True, kw_only=True)
class OutsideStatus:
    """What a device or a licence server shows of others' use, beyond what the Prefect server counts of it.

    Attributes:
        used: `None` where it was never told.
        seen_at: When it was last told, a Unix time.
        misses: How often in a row nobody has answered since.
        why: Why it is not told now; empty where it is.
    """

    used: int | None
    seen_at: float | None
    misses: int
    why: str


@dataclass(frozen=True, kw_only=True)
class CellStatus:
    """A cell: what it is, what of it is held and by whom; amounts in the resource's unit.

    Attributes:
        foreign: What others use of it, by all that is known.
        outside: The part of that which the Prefect server does not count; `None` where nothing shows it.
        lost: It is there and broken.
    """

    resource: str
    number: int
    key: str
    label: str
    unit: str
    scope: str
    capacity: int
    foreign: int
    held: int
    free: int
    present: bool
    lost: bool
    holders: tuple[Holder, ...]
    outside: OutsideStatus | None = None


@dataclass(frozen=True, kw_only=True)
class WaiterStatus:
    """A ticket: what it waits for, since when, and why it is not granted."""

    ticket: str
    label: str
    pid: int
    wants: str
    priority: int
    expected_seconds: float | None
    since: float
    overtaken: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class MachineStatus:
    """One machine at one moment."""

    machine: str | None
    ledger: str
    state_dir: str
    cells: tuple[CellStatus, ...]
    waiting: tuple[WaiterStatus, ...]

    def to_data(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return asdict(self)


def machine_status(ledger: Ledger) -> MachineStatus:
    """Return what the ledger says now."""
    return ledger.read(lambda tx: _status(tx, ledger))


def _status(tx: Transaction, ledger: Ledger) -> MachineStatus:
    known = registry.registered(tx)
    holders: dict[CellId, list[Holder]] = {}
    held: dict[CellId, int] = {}
    spent = usage.read_spent(tx)
    for part in queries.holdings(tx):
        seen = spent.get((part.grant, part.cell))
        holder = Holder(
            grant=part.grant,
            label=part.label,
            pid=part.pid or 0,
            amount=part.declared,
            since=part.since,
            drawn=part.source is not None,
            peak=None if seen is None or seen.together else seen.peak,
        )
        holders.setdefault(part.cell, []).append(holder)
        held[part.cell] = held.get(part.cell, 0) + (0 if holder.drawn else part.declared)
    shown = usage.read_outside(tx)
    cells = tuple(
        CellStatus(
            resource=resource.name,
            number=cell.id.number,
            key=cell.key,
            label=cell.label,
            unit=resource.unit,
            scope=resource.scope.value,
            capacity=cell.capacity,
            foreign=cell.foreign,
            held=held.get(cell.id, 0),
            free=_free(cell, held.get(cell.id, 0)),
            present=cell.present,
            lost=cell.lost,
            holders=tuple(holders.get(cell.id, ())),
            outside=_outside(shown.get(cell.id)),
        )
        for resource in known.resources
        for cell in resource.cells
        if cell.present or cell.id in held
    )
    return MachineStatus(
        machine=known.machine,
        ledger=ledger.id,
        state_dir=str(ledger.folder),
        cells=cells,
        waiting=_waiting(tx),
    )


def _free(cell: registry.RegisteredCell, held: int) -> int:
    if not cell.present or cell.lost or (held and isinstance(cell.capacity, Exclusive)):
        return 0
    return max(0, cell.capacity - cell.foreign - held)


def _outside(seen: usage.Outside | None) -> OutsideStatus | None:
    if seen is None:
        return None
    return OutsideStatus(used=seen.used, seen_at=seen.seen_at, misses=seen.misses, why=seen.why)


def _waiting(tx: Transaction) -> tuple[WaiterStatus, ...]:
    book = tx.book()
    reasons: dict[Requirement, str] = {}
    waiters: list[WaiterStatus] = []
    for ticket in queries.waiting(tx):
        requirement = ticket.shape.requirement
        if ticket.blocked_on is not None:
            reason = f"waits for the server; limit refused: {ticket.blocked_on}"
        elif ticket.shape.pool is not None:
            reason = f"waits to draw on grant {ticket.shape.pool[:8]}"
        else:
            if requirement not in reasons:
                missing = "; ".join(map(str, shortages(book, requirement, ticket.id)))
                foreign = is_stranded(book, requirement, ticket.id)
                stranded = "what others use, or is broken, leaves too little on every cell" if foreign else ""
                reasons[requirement] = stranded or missing or "its turn has not come"
            reason = reasons[requirement]
        waiters.append(
            WaiterStatus(
                ticket=ticket.id,
                label=ticket.label,
                pid=ticket.pid,
                wants=requirement.describe(),
                priority=ticket.shape.priority,
                expected_seconds=ticket.shape.expected,
                since=ticket.asked_at,
                overtaken=ticket.overtaken,
                reason=reason,
            )
        )
    return tuple(waiters)

"""Who holds which cell since when, who waits for what and why: read from the ledger, as plain data.

Rendering is the command line's; nothing here prints.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from prefect_slots.ledger import registry, spending, usage
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
    holders: dict[tuple[str, int], list[Holder]] = {}
    held: dict[tuple[str, int], int] = {}
    spent = spending.read(tx)
    for grant, label, pid, resource, number, amount, since, source in tx.all(
        "SELECT h.id, h.label, COALESCE(o.pid, 0), c.resource, c.number, c.amount, h.granted_at, h.source FROM held h "
        "JOIN holding c ON c.held=h.id LEFT JOIN owner o ON o.id=h.owner ORDER BY h.granted_at"
    ):
        seen = spent.get((grant, CellId(resource, number)))
        peak = None if seen is None or seen.together else seen.peak
        drawn = source is not None
        holder = Holder(grant=grant, label=label, pid=pid, amount=amount, since=since, drawn=drawn, peak=peak)
        holders.setdefault((resource, number), []).append(holder)
        held[resource, number] = held.get((resource, number), 0) + (0 if holder.drawn else amount)
    shown = usage.read(tx)
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
    reasons: dict[str, str] = {}
    waiters: list[WaiterStatus] = []
    for row in tx.all(
        "SELECT t.id, t.label, COALESCE(o.pid, 0), s.requirement, s.priority, t.asked_at, t.blocked_on, "
        "CASE WHEN t.blocked_on IS NULL THEN s.overtakes - t.base ELSE t.overtaken END, s.source, s.expected "
        "FROM ticket t JOIN shape s ON s.key=t.shape LEFT JOIN owner o ON o.id=t.owner ORDER BY t.seq"
    ):
        requirement = Requirement.from_data(json.loads(row[3]))
        if row[6] is not None:
            reason = f"waits for the server; limit refused: {row[6]}"
        elif row[8] is not None:
            reason = f"waits to draw on grant {row[8][:8]}"
        else:
            if row[3] not in reasons:
                missing = "; ".join(map(str, shortages(book, requirement, row[0])))
                foreign = is_stranded(book, requirement, row[0])
                stranded = "what others use, or is broken, leaves too little on every cell" if foreign else ""
                reasons[row[3]] = stranded or missing or "its turn has not come"
            reason = reasons[row[3]]
        waiters.append(
            WaiterStatus(
                ticket=row[0],
                label=row[1],
                pid=row[2],
                wants=requirement.describe(),
                priority=row[4],
                expected_seconds=row[9],
                since=row[5],
                overtaken=row[7],
                reason=reason,
            )
        )
    return tuple(waiters)

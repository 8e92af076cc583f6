"""The status of a machine as plain data: its cells with their holders, and the waiting tickets with their reasons.

It is read from the ledger; the command line renders it.
"""

from dataclasses import asdict, dataclass
from typing import Any

from prefect_slots.ledger import changed, queries, registry, store, transaction, usage
from prefect_slots.ledger.changed import ChangedLimit
from prefect_slots.model import CellId, Exclusive, Requirement
from prefect_slots.observe.reason import reason


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A holder of part of a cell.

    Attributes:
        since: Time of the grant, a Unix time in seconds.
        drawn: The part is drawn on another grant.
        peak: Peak memory use of its processes; `None` before the first look, or if its process holds other grants
            beside it, of which the use cannot be told apart.
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
    """Foreign use of a cell that its device or license server shows beyond the Prefect server's count.

    Attributes:
        used: The amount; `None` before the first answer.
        seen_at: Time of the last answer, a Unix time.
        misses: Questions in a row without an answer since.
        why: Reason for the last missing answer; empty where there was one.
    """

    used: int | None
    seen_at: float | None
    misses: int
    why: str


@dataclass(frozen=True, kw_only=True)
class CellStatus:
    """A cell and its holders; amounts are in the resource's unit.

    Attributes:
        origin: The witness of its capacity and of `outside`: a driver, a license server, a file.
        foreign: Foreign use of it, from all witnesses.
        outside: The part of that which the Prefect server does not count; `None` where nothing shows it.
        present: It was there at the last registration.
        lost: It is there and broken.
    """

    resource: str
    number: int
    key: str
    label: str
    unit: str
    scope: str
    origin: str
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
    """A waiting ticket and the reason why it is not granted."""

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
    """The status of one machine at one moment; `changed` are limits that a person lowered or switched off."""

    machine: str | None
    ledger: str
    state_dir: str
    cells: tuple[CellStatus, ...]
    waiting: tuple[WaiterStatus, ...]
    changed: tuple[ChangedLimit, ...] = ()

    def to_data(self) -> dict[str, Any]:
        """Return the status as plain values for JSON."""
        return asdict(self)


def machine_status(ledger: store.Ledger) -> MachineStatus:
    """Return the present status, all of it from one read of the ledger."""
    return ledger.read(lambda tx: _status(tx, ledger))


def _status(tx: transaction.Transaction, ledger: store.Ledger) -> MachineStatus:
    known = registry.registered(tx)
    holders: dict[CellId, list[Holder]] = {}
    held: dict[CellId, int] = {}
    spent = usage.read_spent(tx)
    for part in queries.holdings(tx):
        seen = spent.get((part.grant, part.cell))
        holder = Holder(
            grant=part.grant,
            label=part.label,
            pid=part.shown_pid,
            amount=part.declared,
            since=part.since,
            drawn=part.source is not None,
            peak=None if seen is None or seen.together else seen.peak,
        )
        holders.setdefault(part.cell, []).append(holder)
        # A draw is part of its source's holding and takes nothing more.
        held[part.cell] = held.get(part.cell, 0) + (0 if holder.drawn else part.declared)
    shown = usage.read_outside(tx)
    cells = [
        CellStatus(
            resource=resource.name,
            number=cell.id.number,
            key=cell.key,
            label=cell.label,
            unit=resource.unit,
            scope=resource.scope.value,
            origin=resource.origin,
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
        # A cell that is gone is shown as long as a grant holds it.
        if cell.present or cell.id in held
    ]
    folder = str(ledger.folder)
    return MachineStatus(
        machine=known.machine,
        ledger=ledger.id,
        state_dir=folder,
        cells=tuple(cells),
        waiting=_waiting(tx),
        changed=changed.read(tx),
    )


def _free(cell: registry.RegisteredCell, held: int) -> int:
    # The first holder of an exclusive cell takes all of it.
    if not cell.present or cell.lost or (held and isinstance(cell.capacity, Exclusive)):
        return 0
    return max(0, cell.capacity - cell.foreign - held)


def _outside(seen: usage.Outside | None) -> OutsideStatus | None:
    if seen is None:
        return None
    return OutsideStatus(used=seen.used, seen_at=seen.seen_at, misses=seen.misses, why=seen.why)


def _waiting(tx: transaction.Transaction) -> tuple[WaiterStatus, ...]:
    book = tx.book()
    # Tickets of one requirement wait for the same reason, and to find it takes a look at every cell.
    reasons: dict[Requirement, str] = {}
    waiters: list[WaiterStatus] = []
    for ticket in queries.waiting(tx):
        requirement = ticket.shape.requirement
        if ticket.blocked_on is not None:
            why = f"waits for the server; limit refused: {ticket.blocked_on}"
        elif ticket.shape.pool is not None:
            why = f"waits to draw on grant {ticket.shape.pool[:8]}"
        else:
            if requirement not in reasons:
                reasons[requirement] = reason(tx, book, requirement, ticket.id)
            why = reasons[requirement]
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
                reason=why,
            )
        )
    return tuple(waiters)

"""What the server was asked for on behalf of grants: intents, leases and releases, as rows.

Intent is written before the call, the lease after it, and a lease is released once, by whoever owns its row in state
`releasing`: two releases of one lease would subtract twice.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from prefect_slots.ledger.transaction import Transaction


class LeaseState(StrEnum):
    """Where a lease's row stands."""

    INTENT = "intent"  # the call may or may not have been applied
    LEASE = "lease"  # recorded
    RELEASING = "releasing"  # its cells are free; its owner releases it once


@dataclass(frozen=True, kw_only=True)
class LeaseRow:
    """One call to the server.

    Attributes:
        id: Our holder id, named in the call; the mirror limits list it.
        names: The limits occupied, mirrors not counted, in canonical order.
        lease_id: The server's id, once its answer is known.
        deadline: When the lease lapses unless renewed, on the boot clock in seconds.
    """

    id: uuid.UUID
    held: str
    generation: int
    owner: str
    names: tuple[str, ...]
    weight: int
    state: LeaseState
    sent_at: float
    lease_id: uuid.UUID | None = None
    deadline: float | None = None


_COLUMNS = "id, held, generation, owner, names, weight, state, sent_at, lease_id, deadline"


def _row(values: tuple[Any, ...]) -> LeaseRow:
    return LeaseRow(
        id=uuid.UUID(values[0]),
        held=values[1],
        generation=values[2],
        owner=values[3],
        names=tuple(json.loads(values[4])),
        weight=values[5],
        state=LeaseState(values[6]),
        sent_at=values[7],
        lease_id=uuid.UUID(values[8]) if values[8] else None,
        deadline=values[9],
    )


def write_intent(
    transaction: Transaction, held: str, names: tuple[str, ...], weight: int, now: float
) -> uuid.UUID | None:
    """Write that the server is about to be asked; return the holder id to name, or `None` if the grant is gone."""
    row = transaction.one("SELECT generation FROM held WHERE id=? AND NOT closed", held)
    if row is None:
        return None
    holder = uuid.uuid4()
    transaction.run(
        "INSERT INTO lease (id, held, generation, owner, names, weight, state, sent_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        *(str(holder), held, row[0], transaction.actor, json.dumps(names), weight, LeaseState.INTENT.value, now),
    )
    return holder


def write_lease(transaction: Transaction, holder: uuid.UUID, lease_id: uuid.UUID, deadline: float) -> bool:
    """Record the server's answer.

    Returns:
        Whether the grant still wants the lease. If not, the row is `releasing` and the caller releases it.
    """
    wanted = transaction.run(
        "UPDATE lease SET lease_id=?, deadline=?, state=? WHERE id=? AND state=? "
        "AND EXISTS (SELECT 1 FROM held h WHERE h.id=lease.held AND h.generation=lease.generation)",
        *(str(lease_id), deadline, LeaseState.LEASE.value, str(holder), LeaseState.INTENT.value),
    )
    if not wanted:
        transaction.run(
            "UPDATE lease SET lease_id=?, deadline=?, state=? WHERE id=?",
            *(str(lease_id), deadline, LeaseState.RELEASING.value, str(holder)),
        )
    return bool(wanted)


def extend(transaction: Transaction, holder: uuid.UUID, deadline: float) -> None:
    """Record a renewal."""
    transaction.run("UPDATE lease SET deadline=? WHERE id=? AND state=?", deadline, str(holder), LeaseState.LEASE.value)


def being_released(transaction: Transaction, names: tuple[str, ...]) -> bool:
    """Tell whether this machine is giving back slots of any of these limits at this moment.

    A call whose answer was lost with its process does not count: it may hold nothing, and settling it takes a while.
    """
    rows = transaction.all("SELECT names FROM lease WHERE state=? AND lease_id IS NOT NULL", LeaseState.RELEASING.value)
    return any(not set(names).isdisjoint(json.loads(row[0])) for row in rows)


def of_owner(transaction: Transaction, owner: str, state: LeaseState) -> list[LeaseRow]:
    """Return an owner's leases in one state."""
    return [
        _row(values)
        for values in transaction.all(
            f"SELECT {_COLUMNS} FROM lease WHERE owner=? AND state=? ORDER BY sent_at DESC", owner, state.value
        )
    ]


def get(transaction: Transaction, holder: uuid.UUID) -> LeaseRow | None:
    """Return one row, if it is still there."""
    values = transaction.one(f"SELECT {_COLUMNS} FROM lease WHERE id=?", str(holder))
    return _row(values) if values else None


def forget(transaction: Transaction, holder: uuid.UUID) -> None:
    """Delete the row of a lease that the server no longer counts."""
    transaction.run("DELETE FROM lease WHERE id=?", str(holder))

"""Who held which cell when: rows from the ledger's history, and a picture of them.

Times are Unix times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefect_slots.ledger.store import Ledger


@dataclass(frozen=True, kw_only=True)
class Span:
    """One holding of one cell, from grant to release; `asked_at` tells how long it waited."""

    grant: str
    label: str
    pid: int
    resource: str
    number: int
    amount: int
    asked_at: float
    granted_at: float
    ended_at: float


def history(ledger: Ledger) -> tuple[Span, ...]:
    """Return the holdings that have ended, oldest first."""
    rows = ledger.read(
        lambda tx: tx.all(
            "SELECT held, label, pid, resource, number, amount, asked_at, granted_at, ended_at FROM history ORDER BY id"
        )
    )
    return tuple(
        Span(
            grant=row[0],
            label=row[1],
            pid=row[2],
            resource=row[3],
            number=row[4],
            amount=row[5],
            asked_at=row[6],
            granted_at=row[7],
            ended_at=row[8],
        )
        for row in rows
    )

"""Counts of a limit: the server's number of this machine's slots against the ledger's, compared in this one place.

`doctor` shows the difference, the leader looks for it now and then, a repair makes it zero, and the part of the count
that no ledger accounts for is foreign use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from prefect_slots.ledger import leases
from prefect_slots.ledger.leases import LeaseRow, LeaseState
from prefect_slots.ledger.transaction import Transaction

# The server surely counts slots of these rows, and perhaps those of a call or release under way.
_HELD: Final = (LeaseState.LEASE, LeaseState.GHOST)
_UNDER_WAY: Final = (LeaseState.INTENT, LeaseState.RELEASING, LeaseState.LAPSED)

Rows = Mapping[UUID, LeaseRow]


@dataclass(frozen=True, kw_only=True)
class Count:
    """One limit at the server and in the ledger.

    Attributes:
        active: Slots that the server counts on the limit.
        mirror: Slots that it counts on this ledger's mirror of it; `None` without a mirror.
        others: Slots that it counts on other ledgers' mirrors of it, as far as they were read.
        least: Slots that this ledger surely holds.
        most: The same with calls whose answer is not known yet.
    """

    active: int = 0
    mirror: int | None = None
    others: int = 0
    least: int = 0
    most: int = 0

    @property
    def ours(self) -> int:
        """The server's count of this ledger's slots."""
        return self.mirror or 0

    @property
    def excess(self) -> int:
        """Slots counted for this ledger that it does not hold."""
        return max(0, self.ours - self.most)

    @property
    def lacking(self) -> int:
        """Slots held by this ledger and other ones that the limit does not count."""
        return max(0, self.least + self.others - max(0, self.active - self.excess))

    @property
    def lacking_on_mirror(self) -> int:
        """Slots held by this ledger that its mirror does not count."""
        return max(0, self.least - self.ours)

    @property
    def foreign(self) -> int:
        """Slots that no ledger accounts for."""
        return max(0, self.active - self.ours - self.others)

    @property
    def drifts(self) -> bool:
        """True if the server counts other slots than are held."""
        return bool(self.excess or self.lacking or self.lacking_on_mirror)


def snapshot(tx: Transaction) -> Rows:
    """Return the rows whose slots the server counts, or may count."""
    return {row.id: row for row in leases.in_states(tx, *_HELD, *_UNDER_WAY)}


def held(limit: str, before: Rows, after: Rows) -> tuple[int, int]:
    """Return the least and the most slots of a limit that the ledger held while the server was read.

    Args:
        limit: Without its mirror.
        before: Snapshot from before the server was read.
        after: Snapshot from after it.
    """
    rows = [row for row in {**before, **after}.values() if limit in row.names]
    sure = [row for row in rows if all(row.id in seen and seen[row.id].state in _HELD for seen in (before, after))]
    return sum(row.call.weight for row in sure), sum(row.call.weight for row in rows)

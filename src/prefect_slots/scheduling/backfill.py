"""Who may use what is set aside for others, until they could start: short work runs in the gap before long work.

Whoever reserves could start when the last holder that is in its way has ended, and those who reserve ahead of it have
started. Holders that have not said when they will end, or are late, may end at any moment; the others are taken at
their word. A request that will have ended by then delays nobody, and may have what is set aside of a cell if that is so
for all ahead of it to whom some of that cell is promised. As it ends in time the start does not move, so that no number
of such requests puts it off; and one that lies is late by then, and makes no gap for another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prefect_slots.model.book import Grant, Holding, Shape
from prefect_slots.scheduling.fairness import Reservation
from prefect_slots.scheduling.placement import Pool


class Gaps:
    """How long what is set aside in one pool will certainly wait for those it is set aside for."""

    def __init__(
        self, pool: Pool, source: str | None, grants: Iterable[Grant], reservations: Sequence[Reservation], now: float
    ) -> None:
        """Look at the pool of `source`; `grants` are those of the whole book, `reservations` the pool's, by place."""
        self._pool = pool
        self._reservations = reservations
        self._now = now
        self._starts: list[float] = []
        self._kept = [
            (grant.ends, grant.holdings) for grant in grants if grant.shape.pool == source and grant.ends is not None
        ]

    def let_in(self, shape: Shape, position: int) -> bool:
        """Tell whether a grant of `shape` made now will have ended before the reserver at `position` could start."""
        return shape.expected is not None and self._now + shape.expected <= self._start(position)

    def _start(self, position: int) -> float:
        while len(self._starts) <= position:
            cells = self._reservations[len(self._starts)].cells
            start = max((self._room(wanted) for wanted in cells), default=self._now)
            self._starts.append(start)
            self._kept.append((start, cells))
        return self._starts[position]

    def _room(self, wanted: Holding) -> float:
        """Return the earliest time at which a cell could have as much as is wanted of it."""
        left = self._pool.most[wanted.cell] - wanted.amount
        for until, holdings in sorted(self._kept, key=lambda kept: -kept[0]):
            left -= sum(amount for cell, amount in holdings if cell == wanted.cell)
            if left < 0:
                return until
        return self._now

"""EASY backfill: short work runs on reserved cells, in the gap before the reservations start.

A request may use reserved cells if it ends before every reservation on them starts. A reservation starts when the last
holder in its way has ended and the reservations ahead of it have started. Holders with a known end are taken at their
word; those without one, or past it, may end at any moment and make no gap. A backfilled request does not move the
start, so that no number of them delays the reservation; one that runs late makes no gap for the next.
"""

from collections.abc import Iterable, Sequence

from prefect_slots.model import Grant, Holding, Shape
from prefect_slots.scheduling.fairness import Reservation
from prefect_slots.scheduling.placement import Pool


class Gaps:
    """The gaps in one pool: the earliest start of each reservation."""

    def __init__(
        self, pool: Pool, source: str | None, grants: Iterable[Grant], reservations: Sequence[Reservation], now: float
    ) -> None:
        """Read the ends of the grants in the pool of `source`.

        Args:
            pool: The cells of `source`.
            source: The grant that serves the pool; `None` is the machine.
            grants: Those of the whole book.
            reservations: Those of the pool, by slot.
            now: Time of the decision, in seconds.
        """
        self._pool = pool
        self._reservations = reservations
        self._now = now
        self._starts: list[float] = []
        self._kept = [
            (grant.ends, grant.holdings) for grant in grants if grant.shape.pool == source and grant.ends is not None
        ]

    def let_in(self, shape: Shape, position: int) -> bool:
        """Return whether a grant of `shape` made now ends before the reservation at `position` starts."""
        return shape.expected is not None and self._now + shape.expected <= self._start(position)

    def _start(self, position: int) -> float:
        while len(self._starts) <= position:
            cells = self._reservations[len(self._starts)].cells
            start = max((self._room(wanted) for wanted in cells), default=self._now)
            self._starts.append(start)
            # A later reservation waits for this one: it is taken to hold its cells from its start on.
            self._kept.append((start, cells))
        return self._starts[position]

    def _room(self, wanted: Holding) -> float:
        """Return the earliest time at which a cell has the wanted amount, if all holders keep their word."""
        # From the latest end backwards: the first holder that leaves too little is the one to wait for.
        left = self._pool.most[wanted.cell] - wanted.amount
        for until, holdings in sorted(self._kept, key=lambda kept: -kept[0]):
            left -= sum(amount for cell, amount in holdings if cell == wanted.cell)
            if left < 0:
                return until
        return self._now

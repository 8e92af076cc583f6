"""The wait graph of one pool: the reservations that a nested request must pass to avoid a deadlock.

A nested request passes a reservation only if the reserving ticket waits, directly or through others, for the chain of
grants that the request is made under. Passing always would starve the reserving ticket; passing never would deadlock
with it. Edges lead from a waiting ticket to the holders of the resources it is short of, to the requests made under
them, and to the reservations ahead of it. Without the last kind the model checker finds a deadlock.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from prefect_slots.model import Grant, Line, Nesting, Shape
from prefect_slots.scheduling import fairness, placement


@dataclass(frozen=True, eq=False)
class WaitGraph:
    """The waits in one pool, between chains of grants.

    On the machine a chain is all that is nested under one outermost grant; within a grant, all that is nested under
    one request that its holder made directly. Edges are read on demand.

    Attributes:
        pool: The cells of `source`.
        source: The grant that serves the pool; `None` is the machine.
        lines: Those of the whole book.
        grants: Those of the whole book, by id.
        reservations: Those of the pool, by slot.
    """

    pool: placement.Pool
    source: str | None
    lines: Iterable[Line]
    grants: Mapping[str, Grant]
    reservations: Sequence[fairness.Reservation]

    def passes(self, nesting: Nesting, position: int) -> bool:
        """Return whether a request made at `nesting` passes the reservation at `position`."""
        chain = self._chain(nesting)
        return chain is not None and self._waits_for(position, chain)

    def _chain(self, nesting: Nesting) -> str | None:
        if self.source is None:
            return nesting.root
        # A request that the grant's holder makes directly holds nothing of the grant yet, and blocks no reservation.
        return None if nesting.parent == self.source else self._outermost(nesting.parent)

    def _outermost(self, grant: str) -> str:
        while grant in self.grants:
            nesting = self.grants[grant].shape.nesting
            if nesting is None or nesting.parent == self.source or nesting.parent not in self.grants:
                break
            grant = nesting.parent
        return grant

    @cached_property
    def _holders(self) -> Mapping[str, set[str]]:
        holders: dict[str, set[str]] = {}
        for grant in self.grants.values():
            if grant.shape.pool == self.source:
                chain = grant.root if self.source is None else self._outermost(grant.id)
                for cell, _ in grant.holdings:
                    holders.setdefault(cell.resource, set()).add(chain)
        return holders

    @cached_property
    def _waiters(self) -> tuple[Mapping[str, list[tuple[Shape, int]]], set[str]]:
        """The tickets that wait in this pool, by chain, and the chains with a ticket in another pool.

        This pool does not show the waits of the latter: they are taken to wait for the chain of the request.
        """
        position = {reservation.ticket.id: place for place, reservation in enumerate(self.reservations)}
        here: dict[str, list[tuple[Shape, int]]] = {}
        elsewhere: set[str] = set()
        for line in self.lines:
            nesting = line.shape.nesting
            if nesting is None or not line.tickets:
                continue
            if nesting.source == self.source:
                chain = self._chain(nesting)
                if chain is not None:
                    ahead = position.get(nesting.ticket, len(self.reservations))
                    here.setdefault(chain, []).append((line.shape, ahead))
            elif self.source is not None:
                chain = self._outermost(nesting.parent)
                if nesting.source is None or self._outermost(nesting.source) != chain:
                    elsewhere.add(chain)
        return here, elsewhere

    def _waits_for(self, position: int, chain: str) -> bool:
        waiters, elsewhere = self._waiters
        todo = [(self.reservations[position].wanted, position)]
        seen, chains = {position}, set[str]()

        def reach(other: str | None) -> None:
            if other is not None and other not in chains:
                chains.add(other)
                todo.extend((shape.requirement, ahead) for shape, ahead in waiters.get(other, ()))

        while todo:
            wanted, ahead = todo.pop()
            for demand in wanted.all_demands:
                if not placement.fits(self.pool, demand, self.pool.free):
                    for holder in self._holders.get(demand.resource, ()):
                        reach(holder)
            for index in range(ahead):
                other = self.reservations[index]
                if index not in seen and not set(other.wanted.resources).isdisjoint(wanted.resources):
                    seen.add(index)
                    todo.append((other.wanted, index))
                    reach(self._chain(other.shape.nesting) if other.shape.nesting else None)
            if chain in chains or not elsewhere.isdisjoint(chains):
                return True
        return False

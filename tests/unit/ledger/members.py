"""Owners of a ledger that ask, draw and leave when a test says so, and die without a word."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from prefect_slots.ledger.owner import Owner
from prefect_slots.ledger.store import Ledger
from prefect_slots.ledger.transaction import TicketState
from prefect_slots.model.book import Asked, Nesting, Shape, Ticket
from prefect_slots.model.request import Request
from prefect_slots.model.requirement import declare
from prefect_slots.model.resource import Cell, Inventory, Resource

GPU = Resource(
    name="gpu_mem",
    unit="MiB",
    cells=(Cell(key="GPU-a", capacity=24, label="A"), Cell(key="GPU-b", capacity=24, label="B")),
)
SEATS = Resource(name="license.matlab", unit="seats", cells=(Cell(key="0", capacity=2),))
INVENTORY = Inventory(resources=(GPU, SEATS))

_numbers = count(1)


@dataclass(frozen=True)
class Member:
    """One owner and its connection."""

    ledger: Ledger
    owner: Owner

    def ask(self, *, nesting: Nesting | None = None, priority: int = 0, **seats: int) -> str:
        """Ask for something and return the ticket; who asks for `matlab=2` wants two seats."""
        ticket = nesting.ticket if nesting else f"t{next(_numbers)}"
        shape = Shape(requirement=declare(license=seats), priority=priority, nesting=nesting)
        self.ledger.transact(
            lambda tx: tx.apply(
                Asked(shape=shape, ticket=Ticket(id=ticket, seq=tx.next_seq())),
                Request(label=f"asks {ticket}"),
            )
        )
        return ticket

    def draw(self, parent: str, **seats: int) -> str:
        """Ask to be served from `parent`."""
        ticket = f"t{next(_numbers)}"
        root = self.ledger.read(lambda tx: tx.grant(parent)).root
        return self.ask(nesting=Nesting(ticket=ticket, parent=parent, root=root, source=parent), **seats)

    def leave(self, ticket: str) -> None:
        """End a ticket or grant."""
        self.ledger.transact(lambda tx: tx.leave(ticket))

    def state(self, ticket: str) -> TicketState:
        """Say where it stands."""
        return self.ledger.read(lambda tx: tx.state(ticket))

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        return self.ledger.read(lambda tx: (tx.one(f"SELECT COUNT(*) FROM {table}") or (0,))[0])

    def die(self) -> None:
        """Drop the lock and leave the rows, as a killed process does."""
        path = self.ledger.folder / "owners" / self.owner.lock_file
        self.owner.end(self.ledger.folder)
        path.write_text("")


Pair = tuple[Member, Member]

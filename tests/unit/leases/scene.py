"""One machine at a fake server: grants from the ledger, and the parts of the server half that look after them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.support.fake_gateway import FakeGateway, FakeServer, SilentAnnouncer
from tests.support.virtual_time import VirtualTime

from prefect_slots.leases.acquire import Acquirer, Refusal, calls_of
from prefect_slots.leases.release import Releaser
from prefect_slots.leases.renew import Renewal
from prefect_slots.ledger import leases, registry
from prefect_slots.ledger.leases import LeaseRow, LeaseState
from prefect_slots.ledger.store import Ledger
from prefect_slots.limits import naming
from prefect_slots.model.book import Asked, Grant, Shape, Ticket
from prefect_slots.model.request import Request
from prefect_slots.model.requirement import declare
from prefect_slots.model.resource import Cell, Inventory, Resource, Scope

T = TypeVar("T")
MACHINE = "m1"
SCANNER = "scanner:m1"
FLEET, HERE = "license:matlab", "license:matlab:m1"
INVENTORY = Inventory(
    resources=(
        Resource(name="license.matlab", unit="seats", cells=(Cell(key="0", capacity=2),), scope=Scope.FLEET),
        Resource(name="scanner", unit="", cells=(Cell(key="0", capacity=2),)),
    )
)


class Scene:
    """A machine, its server and its grants."""

    def __init__(self, ledger: Ledger, time: VirtualTime) -> None:
        self.ledger = ledger
        self.time = time
        self.server = FakeServer(time)
        self.gateway = FakeGateway(self.server, ledger.id)
        self.announcer = SilentAnnouncer()
        self.releaser = Releaser(ledger, self.gateway, self.announcer)
        self.acquirer = Acquirer(ledger, self.gateway, self.releaser, self.announcer)
        self.renewal = Renewal(ledger, self.gateway, self.acquirer)
        ledger.transact(lambda tx: (registry.name_machine(tx, MACHINE), registry.register(tx, INVENTORY)))
        registered = self.registered = ledger.read(registry.registered)
        ledger.plan = lambda _, grant: calls_of(grant.holdings, registered)
        ledger.transact(lambda tx: tx.enrol_at_server())
        for spec in naming.specs(MACHINE, registered.stocks):
            self.server.create(spec.name, spec.limit)
            self.server.create(self.gateway.mirror(spec.name), spec.limit)

    def run(self, scenario: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Play a scenario to its end, in virtual time."""

        async def play() -> T:
            try:
                return await scenario()
            finally:
                await self.releaser.close()
                await self.gateway.close()

        return self.time.run(play())

    def enqueue(self, *, seats: int = 0, scanner: int = 0) -> str:
        """Ask for something and return the ticket."""
        request = Request(
            id=uuid.uuid4().hex,
            requirement=declare(
                license={"matlab": seats} if seats else None, **({"scanner": scanner} if scanner else {})
            ),
            label="a test",
        )
        self.ledger.transact(
            lambda tx: tx.apply(
                Asked(shape=Shape(requirement=request.wanted), ticket=Ticket(id=request.id, seq=tx.next_seq())), request
            )
        )
        return request.id

    def grant(self, *, seats: int = 0, scanner: int = 0) -> Grant:
        """Ask for something that the ledger has, and return the grant."""
        ticket = self.enqueue(seats=seats, scanner=scanner)
        return self.ledger.read(lambda tx: tx.grant(ticket))

    async def occupy(self, grant: Grant) -> Refusal | None:
        """Occupy what a grant needs."""
        there = self.ledger.read(lambda tx: leases.of_grant(tx, grant.id))
        return await self.acquirer.occupy(grant.id, calls_of(grant.holdings, self.registered), there)

    async def held(self, *, seats: int = 0, scanner: int = 0) -> Grant:
        """Return a grant that occupies all it needs."""
        grant = self.grant(seats=seats, scanner=scanner)
        assert await self.occupy(grant) is None
        return grant

    def leave(self, grant: Grant) -> None:
        """End a grant and start to release its leases."""
        self.ledger.transact(lambda tx: tx.leave(grant.id), frees=True)
        self.releaser.sweep()

    def rows(self) -> list[LeaseRow]:
        """Return all rows of calls to the server."""
        return self.ledger.read(lambda tx: leases.in_states(tx, *LeaseState))

    @property
    def states(self) -> list[LeaseState]:
        """The states of those rows."""
        return sorted(row.state for row in self.rows())

    def row(self) -> LeaseRow:
        """Return the only row."""
        (row,) = self.rows()
        return row

    def counts(self, name: str) -> tuple[int, int]:
        """Return the server's count of a limit and of its mirror."""
        return self.server.count(name), self.server.count(self.gateway.mirror(name))

    def column(self, grant: Grant, name: str) -> Any:
        """Return one value of a grant's row in the ledger."""
        found = self.ledger.read(lambda tx: tx.one(f"SELECT {name} FROM held WHERE id=?", grant.id))
        assert found is not None
        return found[0]

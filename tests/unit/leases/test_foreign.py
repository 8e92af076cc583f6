"""Use by others that the server counts, written into the ledger, and tickets that it refused."""

from __future__ import annotations

from tests.unit.leases.scene import FLEET, SCANNER, Scene

from prefect_slots.leases import foreign
from prefect_slots.ledger.transaction import TicketState
from prefect_slots.model.book import Returned


def foreign_use(scene: Scene) -> dict[str, int]:
    rows = scene.ledger.read(lambda tx: tx.all("SELECT resource, foreign_use FROM cell"))
    return dict(rows)


def test_what_others_hold_is_what_no_lease_of_ours_accounts_for(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.held(scanner=1)
        assert not await foreign.note_foreign_use(scene.ledger, scene.gateway, {"scanner"})
        by_hand = scene.server.take([SCANNER], 1)
        assert await foreign.note_foreign_use(scene.ledger, scene.gateway, {"scanner"})
        assert foreign_use(scene)["scanner"] == 1
        assert scene.ledger.read(foreign.watched) == {"scanner"}
        ticket = scene.enqueue(scanner=1)
        assert scene.ledger.read(lambda tx: tx.state(ticket)) is TicketState.WAITING
        scene.server.give_back(by_hand)
        assert await foreign.note_foreign_use(scene.ledger, scene.gateway, {"scanner"})
        assert scene.ledger.read(lambda tx: tx.state(ticket)) is TicketState.HELD

    scene.run(scenario)


def test_a_limit_that_was_lowered_leaves_as_little(scene: Scene) -> None:
    async def scenario() -> None:
        scene.server.create(SCANNER, 1)
        assert await foreign.note_foreign_use(scene.ledger, scene.gateway, {"scanner"})
        assert foreign_use(scene)["scanner"] == 1

    scene.run(scenario)


def test_a_limit_that_is_gone_says_nothing(scene: Scene) -> None:
    async def scenario() -> None:
        scene.server.delete(SCANNER)
        assert not await foreign.note_foreign_use(scene.ledger, scene.gateway, {"scanner"})
        assert await foreign.read(scene.gateway, SCANNER) is None

    scene.run(scenario)


def test_the_fleet_s_use_is_noted_where_the_ledger_must_know_it(scene: Scene) -> None:
    async def scenario() -> None:
        scene.server.take([FLEET], 1)
        names = {"license.matlab"}
        assert await foreign.read_fleet(scene.ledger, scene.gateway, names) == {"license.matlab": 1}
        assert not await foreign.note_foreign_use(scene.ledger, scene.gateway, names)
        assert await foreign.note_foreign_use(scene.ledger, scene.gateway, names, shared=names)
        assert foreign_use(scene)["license.matlab"] == 1

    scene.run(scenario)


def test_refused_tickets_go_on_in_their_order_as_far_as_there_is_room(scene: Scene) -> None:
    async def scenario() -> None:
        by_hand = scene.server.take([FLEET], 2)
        tickets = [scene.grant(seats=1).id for _ in range(2)]
        for ticket in tickets:
            scene.ledger.transact(lambda tx, grant=ticket: tx.apply(Returned(grant=grant, blocked_on=FLEET)))
        assert await foreign.resume_refused(scene.ledger, scene.gateway)
        states = [scene.ledger.read(lambda tx, one=ticket: tx.state(one)) for ticket in tickets]
        assert states == [TicketState.BLOCKED, TicketState.BLOCKED]
        scene.server.give_back(by_hand)
        scene.server.take([FLEET], 1)
        assert await foreign.resume_refused(scene.ledger, scene.gateway)
        states = [scene.ledger.read(lambda tx, one=ticket: tx.state(one)) for ticket in tickets]
        assert states == [TicketState.HELD, TicketState.BLOCKED]

    scene.run(scenario)

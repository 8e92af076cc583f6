"""What the machine has: numbers that are given once, and cells that are unknown, gone or back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.ledger.members import GPU, INVENTORY, SEATS, Member, Pair

from prefect_slots.ledger import registry
from prefect_slots.ledger.registry import Registered
from prefect_slots.ledger.transaction import TicketState
from prefect_slots.model.amount import Exclusive
from prefect_slots.model.book import CellId, CellState
from prefect_slots.model.resource import Cell, Inventory, Resource, Scope

A, B = GPU.cells


def register(one: Member, *resources: Resource, **unknown: frozenset[str]) -> Registered:
    inventory = Inventory(resources=tuple(sorted(resources, key=lambda r: r.name)), **unknown)
    return one.ledger.transact(lambda tx: registry.register(tx, inventory))


def cards(*cells: Cell) -> Resource:
    return replace(GPU, cells=cells)


def numbers(registered: Registered, resource: str = "gpu_mem") -> dict[str, tuple[int, bool]]:
    (found,) = (r for r in registered.resources if r.name == resource)
    return {cell.key: (cell.id.number, cell.present) for cell in found.cells}


def test_what_was_registered_is_read_back(members: Pair) -> None:
    one, other = members
    assert register(one, GPU, SEATS) == other.ledger.read(registry.registered)
    known = other.ledger.read(registry.registered)
    assert known.names == ("gpu_mem", "license.matlab")
    assert [cell.label for cell in known.cells("gpu_mem")] == ["A", "B"]
    assert known.scopes == {"gpu_mem": Scope.WORKER, "license.matlab": Scope.WORKER}
    assert [(stock.resource, stock.cells) for stock in known.stocks] == [
        ("gpu_mem", ((0, 24), (1, 24))),
        ("license.matlab", ((0, 2),)),
    ]
    cell = known.cell(CellId("gpu_mem", 0))
    assert cell is not None
    assert (cell.key, cell.capacity, cell.foreign) == ("GPU-a", 24, 0)
    assert known.cell(CellId("gpu_mem", 9)) is None


def test_registering_the_same_again_changes_nothing(members: Pair) -> None:
    one, _ = members
    assert register(one, GPU, SEATS) == register(one, GPU, SEATS)


def test_a_number_is_given_once_per_card_and_never_again(members: Pair) -> None:
    one, _ = members
    new = Cell(key="GPU-c", capacity=48)
    assert numbers(register(one, cards(B, new), SEATS)) == {"GPU-a": (0, False), "GPU-b": (1, True), "GPU-c": (2, True)}
    assert numbers(register(one, cards(new), SEATS)) == {"GPU-a": (0, False), "GPU-b": (1, False), "GPU-c": (2, True)}
    assert numbers(register(one, cards(A, B, new), SEATS)) == {
        "GPU-a": (0, True),
        "GPU-b": (1, True),
        "GPU-c": (2, True),
    }
    last = Cell(key="GPU-d", capacity=48)
    assert numbers(register(one, cards(last), SEATS))["GPU-d"] == (3, True)


def test_a_resource_that_is_gone_offers_nothing_and_keeps_its_numbers(members: Pair) -> None:
    one, _ = members
    gone = register(one, SEATS)
    assert gone.names == ("license.matlab",)
    assert numbers(gone) == {"GPU-a": (0, False), "GPU-b": (1, False)}
    assert {cell.id.resource for cell in one.ledger.read(lambda tx: tx.book()).cells} == {"license.matlab"}
    assert numbers(register(one, GPU, SEATS)) == {"GPU-a": (0, True), "GPU-b": (1, True)}


def test_an_unknown_resource_stays_as_it_was(members: Pair) -> None:
    one, _ = members
    before = one.ledger.read(registry.registered)
    assert register(one, SEATS, unknown=frozenset({"gpu_mem"})) == before


def test_an_unknown_cell_stays_as_it_was_and_the_others_are_believed(members: Pair) -> None:
    one, _ = members
    larger = replace(B, capacity=40)
    known = register(one, cards(larger), SEATS, unknown_cells=frozenset({"GPU-a"}))
    assert numbers(known) == {"GPU-a": (0, True), "GPU-b": (1, True)}
    assert [cell.capacity for cell in known.resources[0].cells] == [24, 40]


def test_while_one_card_of_a_resource_is_unknown_none_of_it_goes(members: Pair) -> None:
    one, _ = members
    known = register(one, cards(B), SEATS, unknown=frozenset({"gpu_mem"}))
    assert numbers(known) == {"GPU-a": (0, True), "GPU-b": (1, True)}


def test_what_is_held_on_a_cell_that_goes_stays_held(members: Pair) -> None:
    one, other = members
    held = one.ask(matlab=2)
    waits = other.ask(matlab=1)
    known = register(one, GPU)
    assert "license.matlab" not in known.names
    assert (one.state(held), one.state(waits)) == (TicketState.HELD, TicketState.WAITING)
    register(one, GPU, SEATS)
    assert (one.state(held), one.state(waits)) == (TicketState.HELD, TicketState.WAITING), "it is still taken"
    one.leave(held)
    assert one.state(waits) is TicketState.HELD


def test_a_cell_that_comes_or_grows_serves_who_waits_at_once(members: Pair) -> None:
    one, other = members
    told: list[str] = []
    one.ask(matlab=2)
    waits = one.ask(matlab=2)
    one.ledger.on_settled = told.extend
    more = replace(SEATS, cells=(replace(SEATS.cells[0], capacity=4),))
    register(one, GPU, more)
    assert told == [waits]
    assert other.state(waits) is TicketState.HELD


def test_a_cell_that_shrinks_below_what_is_held_grants_nothing_more(members: Pair) -> None:
    one, _ = members
    first, second = one.ask(matlab=1), one.ask(matlab=1)
    register(one, GPU, replace(SEATS, cells=(replace(SEATS.cells[0], capacity=1),)))
    waits = one.ask(matlab=1)
    one.leave(first)
    assert one.state(waits) is TicketState.WAITING, "the other seat is over the new number still"
    one.leave(second)
    assert one.state(waits) is TicketState.HELD


def test_on_a_lost_cell_nothing_more_is_granted_until_it_is_back(members: Pair) -> None:
    one, _ = members
    first = one.ask(matlab=1)
    known = register(one, GPU, unknown_cells=frozenset({"0"}), lost_cells=frozenset({"0"}))
    assert ("license.matlab", ((0, 2),)) in [(stock.resource, stock.cells) for stock in known.stocks]
    assert numbers(known, "license.matlab") == {"0": (0, True)}
    waits = one.ask(matlab=1)
    assert (one.state(first), one.state(waits)) == (TicketState.HELD, TicketState.WAITING)
    register(one, GPU, unknown=frozenset({"license.matlab"}))
    assert one.state(waits) is TicketState.WAITING, "that nobody can tell does not mend it"
    register(one, GPU, SEATS)
    assert one.state(waits) is TicketState.HELD


def test_what_is_not_listed_while_something_without_a_name_is_lost_grants_nothing_more(members: Pair) -> None:
    one, _ = members
    known = register(one, cards(A), SEATS, unknown=frozenset({"gpu_mem"}), lost=frozenset({"gpu_mem"}))
    assert {cell.key: (cell.present, cell.lost) for cell in known.resources[0].cells} == {
        "GPU-a": (True, False),
        "GPU-b": (True, True),
    }
    left = {cell.id: cell.effective for cell in one.ledger.read(lambda tx: tx.book()).cells}
    assert (left[CellId("gpu_mem", 0)], left[CellId("gpu_mem", 1)]) == (24, 0)


def test_the_only_cell_of_a_resource_stays_while_it_cannot_be_read(members: Pair) -> None:
    one, _ = members
    assert numbers(register(one, GPU, unknown_cells=frozenset({"0"})), "license.matlab") == {"0": (0, True)}


def test_on_an_exclusive_cell_whoever_asks_holds_it_whole(members: Pair) -> None:
    one, _ = members
    whole = replace(SEATS, cells=(replace(SEATS.cells[0], capacity=Exclusive(2)),))
    assert register(one, GPU, whole).stocks[1].cells == ((0, 2),)
    first, waits = one.ask(matlab=1), one.ask(matlab=1)
    assert [amount for _, amount in one.ledger.read(lambda tx: tx.grant(first)).holdings] == [2]
    assert one.state(waits) is TicketState.WAITING
    draw = one.draw(first, matlab=1)
    assert one.state(draw) is TicketState.HELD
    one.leave(draw)
    one.leave(first)
    assert one.state(waits) is TicketState.HELD
    register(one, GPU, SEATS)
    one.leave(waits)
    assert [one.state(one.ask(matlab=1)) for _ in range(2)] == [TicketState.HELD] * 2


def test_the_machine_is_called_what_a_registration_called_it_first(members: Pair) -> None:
    one, other = members
    assert one.ledger.read(registry.registered).machine is None
    for name, fix, called in (("a", False, "a"), ("b", False, "a"), ("c", True, "c"), ("d", True, "c")):
        one.ledger.transact(lambda tx, now=name, last=fix: registry.name_machine(tx, now, fix=last))
        assert other.ledger.read(registry.registered).machine == called
        assert other.ledger.read(registry.is_named) is fix


def test_foreign_use_survives_a_new_registration(members: Pair) -> None:
    one, _ = members
    one.ledger.transact(lambda tx: tx.run("UPDATE cell SET foreign_use=5 WHERE key='GPU-a'"))
    one.ledger.transact(lambda tx: registry.register(tx, INVENTORY))
    cells = {cell.id: cell for cell in one.ledger.read(lambda tx: tx.book()).cells}
    assert cells[CellId("gpu_mem", 0)] == CellState(CellId("gpu_mem", 0), 24, 5, label="A")


@pytest.mark.parametrize("scope", list(Scope))
def test_scope_unit_and_origin_follow_the_inventory(members: Pair, scope: Scope) -> None:
    one, _ = members
    known = register(one, GPU, replace(SEATS, scope=scope, unit="chairs", origin="a file"))
    seats = known.resources[1]
    assert (seats.scope, seats.unit, seats.origin) == (scope, "chairs", "a file")


def test_what_is_known_is_read_again_when_anything_was_registered(members: Pair) -> None:
    one, other = members
    known = registry.Known()
    register(one, GPU)
    first = one.ledger.read(known)
    assert one.ledger.read(known) is first
    register(other, GPU, SEATS)
    second = one.ledger.read(known)
    assert second == one.ledger.read(registry.registered) != first
    other.ledger.transact(lambda tx: registry.name_machine(tx, "box"))
    assert one.ledger.read(known).machine == "box"


def test_memory_that_a_gpu_shares_with_the_host_is_remembered(members: Pair) -> None:
    """C20."""
    cells = (Cell(key="GPU-5", capacity=24),)
    for shared in (True, False):
        gpus = Resource(name="gpu_mem", unit="MiB", cells=cells, of_host_memory=shared)
        assert register(members[0], gpus).unified is shared
        assert register(members[0], unknown=frozenset({"gpu_mem"})).unified is shared

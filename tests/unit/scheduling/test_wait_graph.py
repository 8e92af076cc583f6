"""The wait graph: which reservations a nested request passes."""

from __future__ import annotations

from tests.support.interleavings import ask, cells

from prefect_slots.model.book import Book, CellId, Grant, Holding, Line, Nesting, Shape, Ticket
from prefect_slots.model.requirement import Requirement
from prefect_slots.scheduling.fairness import Reservation
from prefect_slots.scheduling.placement import grant_pool, machine_pool
from prefect_slots.scheduling.wait_graph import WaitGraph

MACHINE = cells(a=[1], b=[1], c=[1])


def _at(ticket: str, parent: str, root: str, source: str | None = None) -> Nesting:
    return Nesting(ticket=ticket, parent=parent, root=root, source=source)


def _grant(ticket: str, nesting: Nesting | None = None, **held: int) -> Grant:
    holdings = tuple(Holding(CellId(name, 0), amount) for name, amount in held.items())
    return Grant(id=ticket, shape=Shape(requirement=ask(**held), nesting=nesting), holdings=holdings)


def _waits(ticket: str, seq: int, wanted: Requirement, nesting: Nesting | None = None) -> Line:
    return Line(shape=Shape(requirement=wanted, nesting=nesting), tickets=(Ticket(id=ticket, seq=seq),))


def _graph(grants: list[Grant], lines: list[Line], reserve: list[Line], source: str | None = None) -> WaitGraph:
    book = Book(cells=MACHINE, grants=tuple(grants))
    by_id = {grant.id: grant for grant in grants}
    pool = machine_pool(book) if source is None else grant_pool(book, by_id[source])
    made = [Reservation(line.shape, line.tickets[0], line.shape.requirement, ()) for line in reserve]
    return WaitGraph(pool, source, lines, by_id, made)


def test_a_reserver_waits_for_whoever_holds_what_it_is_short_of() -> None:
    holder, other = _grant("h", a=1), _grant("o", b=1)
    reserver = _waits("r", 1, ask(a=1, c=1))
    graph = _graph([holder, other], [reserver], [reserver])
    assert graph.passes(_at("n", "h", "h"), 0)
    assert not graph.passes(_at("n", "o", "o"), 0)


def test_it_waits_through_the_nested_requests_of_those_holders() -> None:
    # r waits for a, held by h, which waits for b, held by o.
    lines = [_waits("r", 1, ask(a=1, c=1)), _waits("n", 2, ask(b=1), _at("n", "h", "h"))]
    graph = _graph([_grant("h", a=1), _grant("o", b=1)], lines, lines[:1])
    assert graph.passes(_at("m", "o", "o"), 0)


def test_it_waits_for_the_reservations_ahead_of_it() -> None:
    # r2 is short of nothing but what is set aside for r1, and r1 waits for h.
    lines = [_waits("r1", 1, ask(a=1, c=1)), _waits("r2", 2, ask(c=1))]
    graph = _graph([_grant("h", a=1)], lines, lines)
    assert graph.passes(_at("n", "h", "h"), 1)


def test_it_does_not_wait_for_the_reservations_behind_it() -> None:
    lines = [_waits("r1", 1, ask(c=1)), _waits("r2", 2, ask(a=1, c=1))]
    graph = _graph([_grant("h", a=1)], lines, lines)
    assert not graph.passes(_at("n", "h", "h"), 0)
    assert graph.passes(_at("n", "h", "h"), 1)


def test_a_reservation_of_a_nested_request_stands_for_the_chain_it_is_made_under() -> None:
    lines = [_waits("r1", 1, ask(b=1), _at("r1", "h", "h")), _waits("r2", 2, ask(b=1))]
    graph = _graph([_grant("h", a=1)], lines, lines)
    assert graph.passes(_at("n", "h", "h"), 1)
    assert not graph.passes(_at("n", "h", "h"), 0)


def test_within_a_grant_the_requests_of_its_holder_wait_their_turn() -> None:
    source = _grant("s", a=1, b=1)
    child = _grant("d", _at("d", "s", "s", "s"), a=1)
    reserver = _waits("r", 1, ask(a=1, b=1), _at("r", "s", "s", "s"))
    graph = _graph([source, child], [reserver], [reserver], "s")
    assert not graph.passes(_at("n", "s", "s", "s"), 0)


def test_within_a_grant_a_chain_passes_only_those_that_wait_for_it() -> None:
    source = _grant("s", a=1, b=1)
    child = _grant("d", _at("d", "s", "s", "s"), a=1)
    grandchild = _grant("e", _at("e", "d", "s", None), c=1)
    short_of_a = _waits("r1", 1, ask(a=1, b=1), _at("r1", "s", "s", "s"))
    short_of_nothing = _waits("r2", 2, ask(b=1), _at("r2", "s", "s", "s"))
    for lines, passed in ([short_of_a], True), ([short_of_nothing], False):
        graph = _graph([source, child, grandchild], lines, lines, "s")
        assert graph.passes(_at("n", "d", "s", "s"), 0) is passed
        assert graph.passes(_at("n", "e", "s", "s"), 0) is passed


def test_within_a_grant_a_chain_that_waits_for_the_machine_may_wait_for_anybody() -> None:
    source = _grant("s", a=1, b=1)
    one, two = _grant("d", _at("d", "s", "s", "s"), a=1), _grant("e", _at("e", "s", "s", "s"), b=1)
    reserver = _waits("r", 1, ask(a=1), _at("r", "s", "s", "s"))
    graph = _graph([source, one, two], [reserver], [reserver], "s")
    assert not graph.passes(_at("n", "e", "s", "s"), 0)
    outside = _waits("m", 2, ask(c=1), _at("m", "d", "s", None))
    graph = _graph([source, one, two], [reserver, outside], [reserver], "s")
    assert graph.passes(_at("n", "e", "s", "s"), 0)

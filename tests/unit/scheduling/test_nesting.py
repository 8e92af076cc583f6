"""Nested requests: what is drawn from whom, what may wait, what is refused."""

from __future__ import annotations

from dataclasses import replace

from tests.support.interleavings import ask, cells

from prefect_slots.model.book import Book, CellId, Grant, Holding, Nesting, Shape
from prefect_slots.model.requirement import Requirement
from prefect_slots.model.resource import Scope
from prefect_slots.scheduling.nesting import Nested, RefusedNesting, chain_of, chain_of_runs, nest

MACHINE = cells(a=[2], b=[2], c=[2], z=[2])
SCOPES = {"a": Scope.WORKER, "b": Scope.WORKER, "c": Scope.WORKER, "z": Scope.FLEET}


def _grant(ticket: str, parent: Grant | None = None, source: Grant | None = None, **held: int) -> Grant:
    nesting = None
    if parent is not None:
        nesting = Nesting(ticket=ticket, parent=parent.id, root=parent.root, source=source.id if source else None)
    holdings = tuple(Holding(CellId(name, 0), amount) for name, amount in held.items())
    return Grant(id=ticket, shape=Shape(requirement=ask(**held), nesting=nesting), holdings=holdings)


def _nested(wanted: Requirement, *grants: Grant, under: Grant) -> Nested | RefusedNesting:
    book = Book(cells=MACHINE, grants=grants)
    return nest(book, wanted, chain_of(book, under.id), "new", SCOPES)


def test_the_chain_runs_from_the_innermost_grant_to_the_outermost() -> None:
    outer = _grant("t1", a=1)
    middle = _grant("t2", outer, b=1)
    inner = _grant("t3", middle, c=1)
    book = Book(cells=MACHINE, grants=(outer, inner, middle))
    assert chain_of(book, "t3") == (inner, middle, outer)
    assert chain_of(book, "t1") == (outer,)
    assert chain_of(book, "gone") == ()
    assert chain_of(Book(cells=MACHINE, grants=(outer, inner)), "t3") == (inner,)


def test_what_an_enclosing_grant_covers_is_drawn_from_the_nearest_that_does() -> None:
    outer = _grant("t1", a=2)
    inner = _grant("t2", outer, outer, a=1)
    answer = _nested(ask(a=1), outer, inner, under=inner)
    assert answer == Nested(Nesting(ticket="new", parent="t2", root="t1", source="t2"), may_wait=True)


def test_a_draw_waits_for_its_siblings_when_its_chain_holds_only_what_comes_before() -> None:
    outer = _grant("t1", a=2, b=2)
    inner = _grant("t2", outer, outer, a=1)
    answer = _nested(ask(b=1), outer, inner, under=inner)
    assert answer == Nested(Nesting(ticket="new", parent="t2", root="t1", source="t1"), may_wait=True)


def test_a_draw_of_what_its_chain_holds_already_may_not_wait() -> None:
    outer = _grant("t1", a=2)
    inner = _grant("t2", outer, outer, a=1)
    answer = _nested(ask(a=2), outer, inner, under=inner)
    assert answer == Nested(Nesting(ticket="new", parent="t2", root="t1", source="t1"), may_wait=False)


def test_what_no_grant_covers_waits_for_the_machine_if_it_comes_after_all_that_is_held() -> None:
    outer = _grant("t1", a=1)
    answer = _nested(ask(b=1, z=1), outer, under=outer)
    assert answer == Nested(Nesting(ticket="new", parent="t1", root="t1", source=None), may_wait=True)


def test_what_comes_before_or_beside_what_is_held_is_refused() -> None:
    outer = _grant("t1", b=1)
    assert _nested(ask(a=1), outer, under=outer) == RefusedNesting(outer, closed=False)
    assert _nested(ask(b=2), outer, under=outer) == RefusedNesting(outer, closed=False)
    assert _nested(ask(a=1, c=1), outer, under=outer) == RefusedNesting(outer, closed=False)
    fleet = _grant("t2", z=1)
    assert _nested(ask(c=1), fleet, under=fleet) == RefusedNesting(fleet, closed=False)


def test_a_closed_grant_takes_no_new_request() -> None:
    closed = replace(_grant("t1", a=2), closed=True)
    assert _nested(ask(a=1), closed, under=closed) == RefusedNesting(closed, closed=True)


def test_a_closed_grant_further_out_is_passed_over() -> None:
    closed = replace(_grant("t1", a=2), closed=True)
    inner = _grant("t2", closed, closed, a=1)
    assert _nested(ask(a=2), closed, inner, under=inner) == RefusedNesting(inner, closed=False)


def test_with_a_link_of_the_chain_gone_everything_of_the_same_root_counts_as_held() -> None:
    outer = _grant("t1", a=2, c=1)
    middle = _grant("t2", outer, z=1)
    inner = _grant("t3", middle, outer, a=1)
    assert _nested(ask(b=1), outer, inner, under=inner) == RefusedNesting(inner, closed=False)
    answer = _nested(ask(z=1), outer, inner, under=inner)
    assert isinstance(answer, Nested)
    assert answer.nesting.source is None


def test_the_grants_that_all_of_a_run_s_have_in_common_enclose_what_it_awaits() -> None:
    # C17: any task of the flow run may be the one that awaits another flow run.
    flow = replace(_grant("t1", a=2), run="run")
    one, two = (replace(_grant(ticket, flow, flow, a=1), run="run") for ticket in ("t2", "t3"))
    stranger = replace(_grant("t4", b=1), run="other")

    def chain(*grants: Grant, runs: tuple[str, ...] = ("run",)) -> tuple[Grant, ...]:
        return chain_of_runs(Book(cells=MACHINE, grants=grants), runs)

    assert chain(flow, stranger) == (flow,)
    assert chain(flow, one, stranger) == (one, flow)
    assert chain(flow, one, two, stranger) == (flow,)
    assert chain(replace(one, shape=Shape(requirement=ask(a=1))), two, stranger) == ()
    assert chain(flow, stranger, runs=("holds nothing", "run", "other")) == (flow,)
    assert chain(replace(flow, closed=True), stranger) == ()
    assert chain(stranger) == ()

"""Laws 4 and 5 by exhaustion: every interleaving of small processes, looping for ever or running once.

No state is a deadlock, from no state is a waiting request shut out for ever, and nobody is overtaken more than K times
plus two per nested request. The named configurations are those that broke a tempting rule.
"""

from __future__ import annotations

from itertools import combinations_with_replacement, product

import pytest
from tests.support.interleavings import RELEASE, Process, Search, ask, cells

from prefect_slots.model.book import CellId, CellState
from prefect_slots.model.requirement import Requirement

Script = tuple[Requirement | None, ...]

ALLOWED = pytest.mark.parametrize("allowed", [0, 1, 2])


def _nested(*wanted: Requirement) -> Script:
    return (*wanted, *[RELEASE] * len(wanted))


def _holds(search: Search) -> None:
    outcome = search.run()
    assert not outcome.problem, str(outcome)
    assert outcome.states > 1


@ALLOWED
def test_a1_a_stream_of_urgent_requests_does_not_starve_a_lax_one(allowed: int) -> None:
    urgent, lax = Process(_nested(ask(gpu=1)), priority=1), Process(_nested(ask(gpu=1)))
    _holds(Search(cells(gpu=[1]), [urgent, urgent, lax], max_overtakes=allowed))


@ALLOWED
def test_a2_nested_requests_do_not_starve_a_reservation(allowed: int) -> None:
    nesting = Process(_nested(ask(gpu=1), ask(mem=1)))
    whole = Process(_nested(ask(mem=2)))
    _holds(Search(cells(gpu=[2], mem=[2]), [nesting, nesting, whole], max_overtakes=allowed))


@ALLOWED
def test_a2_draws_do_not_starve_a_reservation_within_their_grant(allowed: int) -> None:
    holder = Process((ask(gpu=2, mem=2),), once=True)
    drawing = Process(_nested(ask(gpu=1), ask(mem=1)), inside=0)
    whole = Process(_nested(ask(mem=2)), inside=0)
    _holds(Search(cells(gpu=[2], mem=[2]), [holder, drawing, drawing, whole], max_overtakes=allowed))


@ALLOWED
def test_a2b_a_reservation_does_not_deadlock_with_the_nested_request_it_waits_for(allowed: int) -> None:
    processes = [
        Process(_nested(ask(a=1), ask(b=1))),
        Process(_nested(ask(b=1), ask(c=1))),
        Process(_nested(ask(a=1, c=1))),
        Process(_nested(ask(c=1))),
    ]
    _holds(Search(cells(a=[1], b=[1], c=[1]), processes, max_overtakes=allowed))


@ALLOWED
def test_a3_a_stranded_reservation_holds_nobody_up(allowed: int) -> None:
    small, big = Process(_nested(ask(gpu=1))), Process(_nested(ask(gpu=2)))
    cut = (CellState(id=CellId("gpu", 0), capacity=2, foreign=1),)
    _holds(Search(cells(gpu=[2]), [small, small, big], max_overtakes=allowed, cut=cut))


@ALLOWED
def test_a3_a_stranded_reservation_holds_nothing_else_back(allowed: int) -> None:
    small, big = Process(_nested(ask(mem=1))), Process(_nested(ask(gpu=2, mem=2)))
    cut = (CellState(id=CellId("gpu", 0), capacity=2, foreign=1), CellState(id=CellId("mem", 0), capacity=2))
    _holds(Search(cells(gpu=[2], mem=[2]), [small, small, big], max_overtakes=allowed, cut=cut))


@ALLOWED
def test_a4_every_ticket_of_a_line_is_counted(allowed: int) -> None:
    small, big = Process(_nested(ask(gpu=1))), Process(_nested(ask(gpu=2)))
    _holds(Search(cells(gpu=[2, 2]), [small, small, small, big, big], max_overtakes=allowed))


@ALLOWED
@pytest.mark.parametrize("joins", [False, True])
def test_m4_draws_of_siblings_end_whether_or_not_their_parent_joins_them(allowed: int, joins: bool) -> None:
    processes = [
        Process(_nested(ask(gpu=3)), once=True, joins=joins),
        Process(_nested(ask(gpu=2), ask(mem=1)), once=True, inside=0),
        Process(_nested(ask(mem=1), ask(gpu=2)), once=True, inside=0),
        Process(_nested(ask(gpu=3)), once=True),
    ]
    _holds(Search(cells(gpu=[3], mem=[1]), processes, max_overtakes=allowed))


def _catalogue() -> list[Script]:
    roots = [
        *({"a": 1}, {"b": 1}, {"c": 1}, {"c": 2}, {"a": 1, "b": 1}),
        *({"a": 1, "c": 1}, {"a": 1, "c": 2}, {"b": 1, "c": 1}, {"b": 1, "c": 2}),
    ]
    made: list[Script] = []
    for root in roots:
        inner: list[list[dict[str, int]]] = []
        if max(root) == "a":
            inner += [[{"b": 1}], [{"b": 1}, {"c": 1}], [{"b": 1, "c": 1}]]
        if max(root) < "c":
            inner += [[{"c": 1}], [{"c": 2}]]
        made.append(_nested(ask(**root)))
        made.extend(_nested(ask(**root), *(ask(**wanted) for wanted in nested)) for nested in inner)
    return made


MACHINES = {
    "one cell of each": cells(a=[1], b=[1], c=[2]),
    "two cells of the last": cells(a=[1], b=[1], c=[2, 2]),
    "two cells of the first": cells(a=[1, 1], b=[1], c=[3]),
}
# The number of parts shares no factor with the numbers of choices, so that every part has some of everything.
PARTS = 37
QUICK = 1


def _parts() -> list[object]:
    marks = [() if part < QUICK else (pytest.mark.slow,) for part in range(PARTS)]
    return [pytest.param(part, marks=marks[part], id=f"part{part}") for part in range(PARTS)]


@pytest.mark.parametrize("part", _parts())
def test_three_looping_processes(part: int) -> None:
    configurations = product(
        MACHINES.values(), combinations_with_replacement(_catalogue(), 3), (0, 1), ((0, 0, 0), (0, -1, 0))
    )
    for number, (machine, scripts, allowed, priorities) in enumerate(configurations):
        if number % PARTS == part:
            processes = [Process(script, priority) for script, priority in zip(scripts, priorities, strict=True)]
            _holds(Search(machine, processes, max_overtakes=allowed))


def _draw_catalogue() -> list[Script]:
    g, m, z = ask(g=1), ask(m=1), ask(z=1)
    return [_nested(*steps) for steps in ([g], [ask(g=2)], [m], [ask(m=2)], [g, m], [g, z], [m, z], [z], [g, m, z])]


OUTSIDERS = [_nested(ask(z=1)), _nested(ask(g=1, z=1)), _nested(ask(g=2)), _nested(ask(m=1), ask(z=1))]


@pytest.mark.parametrize("part", _parts())
def test_two_children_draw_on_their_parents_grant_beside_an_outsider(part: int) -> None:
    configurations = product(
        combinations_with_replacement(_draw_catalogue(), 2), OUTSIDERS, (0, 1), (False, True), ((0, 0), (0, -1))
    )
    for number, (children, outsider, allowed, joins, priorities) in enumerate(configurations):
        if number % PARTS == part:
            processes = [
                Process(_nested(ask(g=2, m=2)), once=True, joins=joins),
                *(
                    Process(script, priority, once=True, inside=0)
                    for script, priority in zip(children, priorities, strict=True)
                ),
                Process(outsider, once=True),
            ]
            _holds(Search(cells(g=[2], m=[2], z=[1]), processes, max_overtakes=allowed))

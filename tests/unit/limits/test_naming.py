"""Names of limits are what the interface says, and no two things share one."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_slots.limits.naming import cells_counted, mirror_of, names_of, specs, split_mirror, tag_of, units
from prefect_slots.model.registered import LimitSpec, LimitUnit, Stock
from prefect_slots.model.resource import Scope, check_resource_name, sanitise_machine_name


def unit(resource: str, cell: int | None = None, scope: Scope = Scope.WORKER) -> LimitUnit:
    return LimitUnit(scope=scope, resource=resource, cell=cell, weight=1)


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (unit("gpu_mem"), ("gpu-mem:gpu-1",)),
        (unit("gpu_mem", 3), ("gpu-mem:gpu-1:3",)),
        (unit("mem"), ("mem:gpu-1",)),
        (unit("cpus"), ("cpus:gpu-1",)),
        (unit("license.matlab"), ("license:matlab:gpu-1",)),
        (unit("license.matlab", scope=Scope.FLEET), ("license:matlab", "license:matlab:gpu-1")),
        (unit("film_scanner"), ("film-scanner:gpu-1",)),
        (unit("film_scanner", 0), ("film-scanner:gpu-1:0",)),
        (unit("scanner", scope=Scope.FLEET), ("scanner", "scanner:gpu-1")),
    ],
)
def test_names_are_those_of_the_interface(wanted: LimitUnit, names: tuple[str, ...]) -> None:
    assert names_of(wanted, "gpu-1") == names


def test_a_machine_name_that_could_be_read_as_two_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="not a sanitised machine name"):
        names_of(unit("mem"), "gpu:1")


def _is_free(name: str) -> bool:
    try:
        return bool(check_resource_name(name))
    except ValueError:
        return False


resources = st.one_of(
    st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True).filter(_is_free),
    st.from_regex(r"license\.[A-Za-z0-9._-]{1,6}", fullmatch=True),
)
machines = st.text(st.sampled_from("abAB01.-_"), min_size=1, max_size=5).filter(
    lambda name: name.strip("-") == name and name not in (".", "..")
)
things = st.tuples(resources, st.sampled_from(Scope), st.none() | st.integers(0, 20), machines)


@given(things, things)
def test_no_two_things_share_a_name(
    one: tuple[str, Scope, int | None, str], two: tuple[str, Scope, int | None, str]
) -> None:
    def own_name(thing: tuple[str, Scope, int | None, str]) -> tuple[str, tuple[object, ...]]:
        resource, scope, cell, machine = thing
        first = names_of(unit(resource, cell, scope), machine)[0]
        shared = scope is Scope.FLEET and cell is None
        return first, (resource, cell, None if shared else machine)

    (name_one, what_one), (name_two, what_two) = own_name(one), own_name(two)
    assert (name_one == name_two) == (what_one == what_two)


@given(machines)
def test_the_machines_of_these_tests_are_sanitised(machine: str) -> None:
    assert sanitise_machine_name(machine) == machine


@given(resources, machines, st.uuids().map(str))
def test_a_mirror_tells_its_limit_and_ledger(resource: str, machine: str, ledger_id: str) -> None:
    (limit,) = names_of(unit(resource), machine)
    mirror = mirror_of(limit, ledger_id)
    assert mirror == f"tag:{limit}@{ledger_id}"
    assert split_mirror(mirror) == (limit, ledger_id)
    assert tag_of(mirror) == f"{limit}@{ledger_id}"
    assert split_mirror(limit) is None
    assert split_mirror("tag:somebody-elses") is None


def test_limits_of_a_machine() -> None:
    stocks = (
        Stock(resource="gpu_mem", scope=Scope.WORKER, cells=((0, 24576), (2, 8192))),
        Stock(resource="license.matlab", scope=Scope.FLEET, cells=((0, 3),)),
        Stock(resource="scanner", scope=Scope.WORKER, cells=((0, 1), (1, 1))),
        Stock(resource="cpus", scope=Scope.WORKER, cells=((0, 16),)),
    )
    assert specs("m", stocks) == (
        LimitSpec(name="cpus:m", limit=16, scope=Scope.WORKER),
        LimitSpec(name="gpu-mem:m", limit=32768, scope=Scope.WORKER),
        LimitSpec(name="gpu-mem:m:0", limit=24576, scope=Scope.WORKER),
        LimitSpec(name="gpu-mem:m:2", limit=8192, scope=Scope.WORKER),
        LimitSpec(name="license:matlab", limit=3, scope=Scope.FLEET),
        LimitSpec(name="license:matlab:m", limit=3, scope=Scope.WORKER),
        LimitSpec(name="scanner:m", limit=2, scope=Scope.WORKER),
        LimitSpec(name="scanner:m:0", limit=1, scope=Scope.WORKER),
        LimitSpec(name="scanner:m:1", limit=1, scope=Scope.WORKER),
    )


def test_one_card_has_a_limit_of_its_own_and_one_scanner_has_not() -> None:
    one = ((0, 1),)
    stocks = tuple(Stock(resource=name, scope=Scope.WORKER, cells=one) for name in ("gpu_mem", "scanner"))
    assert cells_counted(stocks) == {"gpu_mem"}


def test_what_has_no_capacity_gets_no_limit() -> None:
    stocks = (Stock(resource="gpu_mem", scope=Scope.WORKER, cells=((0, 0), (1, 4))),)
    assert [spec.name for spec in specs("m", stocks)] == ["gpu-mem:m", "gpu-mem:m:1"]


amounts = st.lists(st.tuples(st.sampled_from(["gpu_mem", "license.x", "mem"]), st.integers(0, 3), st.integers(1, 9)))


@given(amounts)
def test_units_add_up_to_what_was_placed(placed: list[tuple[str, int, int]]) -> None:
    scopes = {"gpu_mem": Scope.WORKER, "license.x": Scope.FLEET, "mem": Scope.WORKER}
    made = units([(name, scopes[name], cell, amount) for name, cell, amount in placed], {"gpu_mem"})
    totals = {each.resource: each.weight for each in made if each.cell is None}
    assert totals == {name: sum(a for n, _, a in placed if n == name) for name, _, _ in placed}
    cells = {each.cell: each.weight for each in made if each.cell is not None}
    assert cells == {
        cell: sum(a for n, c, a in placed if (n, c) == ("gpu_mem", cell)) for n, cell, _ in placed if n == "gpu_mem"
    }
    assert all(each.scope is Scope.WORKER for each in made if each.cell is not None)


def test_naming_does_not_import_prefect() -> None:
    code = (
        "import sys, prefect_slots.limits.naming, prefect_slots.limits.outcome, prefect_slots.limits.plan, "
        "prefect_slots.system.clock; sys.exit(any(m in sys.modules for m in ('prefect', 'httpx')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

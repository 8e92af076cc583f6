"""The canonical order where names as text would give another one, and the calls it makes."""

from __future__ import annotations

from prefect_slots.model.registered import LimitUnit
from prefect_slots.model.resource import Scope
from prefect_slots.scheduling.canonical_order import calls, canonical_key, strictly_after

WORKER, FLEET = Scope.WORKER, Scope.FLEET


def _unit(resource: str, cell: int | None, weight: int, scope: Scope = WORKER) -> LimitUnit:
    return LimitUnit(scope=scope, resource=resource, cell=cell, weight=weight)


def test_this_machine_comes_before_the_fleet_and_a_total_before_its_cells() -> None:
    keys = [
        canonical_key(WORKER, "gpu"),
        canonical_key(WORKER, "gpu_mem"),
        canonical_key(WORKER, "gpu_mem", 2),
        canonical_key(WORKER, "gpu_mem", 10),
        canonical_key(WORKER, "zebra"),
        canonical_key(FLEET, "gpu"),
    ]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


def test_neighbours_of_equal_weight_share_a_call() -> None:
    total, card, mem = _unit("gpu_mem", None, 8), _unit("gpu_mem", 10, 8), _unit("mem", None, 4)
    assert calls([mem, card, total]) == ((total, card), (mem,))


def test_units_of_equal_weight_with_another_between_them_do_not() -> None:
    cpus, card, mem = _unit("cpus", None, 8), _unit("gpu_mem", 0, 4), _unit("mem", None, 8)
    assert calls([cpus, mem, card]) == ((cpus,), (card,), (mem,))


def test_nothing_is_no_call() -> None:
    assert calls([]) == ()


def test_waiting_while_holding_needs_everything_asked_after_everything_held() -> None:
    assert strictly_after([(WORKER, "mem")], [(WORKER, "cpus"), (WORKER, "gpu_mem")])
    assert strictly_after([(FLEET, "a")], [(WORKER, "z")])
    assert not strictly_after([(WORKER, "z")], [(FLEET, "a")])
    assert not strictly_after([(WORKER, "mem")], [(WORKER, "mem")])
    assert not strictly_after([(WORKER, "mem"), (WORKER, "zebra")], [(WORKER, "scanner")])
    assert strictly_after([(WORKER, "a")], [])

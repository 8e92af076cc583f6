"""Memory that the host and a GPU share: a request for one takes as much of the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_slots.model import Book, CellId, CellState, Demand, Grant, Registered, RegisteredCell, RegisteredResource

from prefect_slots.model import Requirement, Scope, Shape, Share, declare  # isort: skip
from prefect_slots.scheduling.placement import machine_pool, place

GIB = 1024


def machine(*gpus: int, mem: int = 24 * GIB, unified: bool = True) -> Registered:
    def resource(name: str, *capacities: int) -> RegisteredResource:
        cells = tuple(
            RegisteredCell(CellId(name, number), str(number), "", None, capacity, 0, present=True, lost=False)
            for number, capacity in enumerate(capacities)
        )
        return RegisteredResource(name, "MiB", Scope.WORKER, "", cells)

    listed = (resource("gpu_mem", *gpus), resource("mem", mem))
    return Registered(edition=None, machine="m", resources=listed, unified=unified)


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ({"gpu_mem": 16}, {"gpu_mem": 16, "mem": 16}),
        ({"gpu_mem": 8, "mem": 4}, {"gpu_mem": 8, "mem": 12}),
        ({"mem": 4}, {"mem": 4}),
        ({"cpus": 1}, {"cpus": 1}),
        ({"gpus": 0.5, "cpus": 1}, {"gpus": 0.5, "mem": 12, "cpus": 1}),
        ({"gpus": 1}, {"gpus": 1, "mem": 24}),
        ({"gpu_mem": 2, "gpus": 2}, {"gpu_mem": 2, "gpus": 2, "mem": 4}),
    ],
)
def test_memory_of_a_gpu_is_memory_of_the_host(asked: dict[str, float], taken: dict[str, float]) -> None:
    """C20."""
    assert machine(24 * GIB).with_host_memory(declare(**asked)) == declare(**taken)


def test_a_whole_gpu_is_all_that_a_headroom_of_the_host_leaves() -> None:
    assert machine(24 * GIB, mem=20 * GIB).with_host_memory(declare(gpus=1)) == declare(gpus=1, mem=20)


def test_each_alternative_asks_for_its_own() -> None:
    either = Requirement.any_of([declare(gpu_mem=8), declare(cpus=8)])
    assert machine(24 * GIB).with_host_memory(either).alternatives == (declare(gpu_mem=8, mem=8), declare(cpus=8))


def test_a_gpu_with_memory_of_its_own_and_a_machine_without_mem_ask_for_nothing_else() -> None:
    assert machine(24 * GIB, unified=False).with_host_memory(declare(gpu_mem=8)) == declare(gpu_mem=8)
    alone = machine(24 * GIB)
    alone = Registered(edition=None, machine="m", resources=alone.resources[:1], unified=True)
    assert alone.with_host_memory(declare(gpu_mem=8)) == declare(gpu_mem=8)


SHARED = 12
WANTED = st.builds(
    lambda gpu, mem: Requirement.of(
        [
            Demand(resource=name, amount=amount)
            for name, amount in (("gpu_mem", gpu), ("mem", mem))
            if amount is not None
        ]
    ),
    st.one_of(st.integers(1, SHARED), st.builds(Share, st.integers(1, 1_000_000))),
    st.one_of(st.none(), st.integers(1, SHARED)),
) | st.integers(1, SHARED).map(lambda mem: Requirement.of([Demand(resource="mem", amount=mem)]))


@given(st.lists(WANTED, max_size=8), st.integers(1, SHARED), st.integers(1, SHARED))
def test_what_is_granted_of_both_never_exceeds_the_bytes_there_are(
    wanted: list[Requirement], gpu: int, mem: int
) -> None:
    """C20: law 1 over the shared bytes, by an independent sum of what was asked."""
    registered = machine(gpu, mem=mem)
    cells = tuple(CellState(id=CellId(name, 0), capacity=size) for name, size in (("gpu_mem", gpu), ("mem", mem)))
    book, used = Book(cells=cells), 0
    for number, asked in enumerate(wanted):
        shape = Shape(requirement=registered.with_host_memory(asked))
        pool = machine_pool(book)
        placed = place(pool, shape.requirement, pool.free)
        if placed is not None:
            grant = Grant(id=str(number), shape=shape, holdings=placed.holdings)
            book = Book(cells=cells, grants=(*book.grants, grant))
            used += sum(
                min(demand.on(gpu), mem) if demand.resource == "gpu_mem" else demand.on(mem) for demand in asked.demands
            )
    assert used <= max(gpu, mem)
    assert used <= mem

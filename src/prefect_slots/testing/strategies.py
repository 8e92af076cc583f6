"""Hypothesis strategies for amounts, demands, requirements, machines, books and units.

Machines are small on purpose, a few cells of a few units: every mistake shows there, and often.
"""

from dataclasses import dataclass

from hypothesis import strategies as st

from prefect_slots.model import GPU_MEM, MAX_AMOUNT, Book, CellId, CellState, Exclusive, GpuFilter, LimitUnit, Scope
from prefect_slots.model.requirement import WHOLE, Demand, Requirement, Share
from prefect_slots.testing.bookkeeping import MemoryLedger
from prefect_slots.testing.play import Play

# One of each kind that limits treat differently: cells, fleet scope, memory, plain counts, declared.
RESOURCES = ("cpus", "gpu_mem", "license.matlab", "mem", "scanner")
_GPUS = ("A", "B")
SCOPES = {name: Scope.FLEET if name.startswith("license.") else Scope.WORKER for name in RESOURCES}


@dataclass(frozen=True, kw_only=True)
class Situation:
    """A machine, the requirements of its tasks, and the number of overtakes that its scheduler allows."""

    cells: tuple[CellState, ...]
    wishes: tuple[Requirement, ...]
    max_overtakes: int


def amounts(most: int = MAX_AMOUNT) -> st.SearchStrategy[int]:
    """Return whole amounts above zero that a limit can count."""
    return st.integers(1, most)


def shares() -> st.SearchStrategy[Share]:
    """Return parts of one cell, round ones often."""
    return st.builds(Share, st.one_of(st.sampled_from([WHOLE, WHOLE // 2, WHOLE // 4]), st.integers(1, WHOLE)))


@st.composite
def machines(draw: st.DrawFn, *, resources: int = 3, cells: int = 3, capacity: int = 4) -> tuple[CellState, ...]:
    """Return the cells of an idle machine: at most that many resources, cells of each and units on a cell.

    Some are exclusive: the first holder takes all of them. GPUs are of two names.
    """
    names = draw(st.lists(st.sampled_from(RESOURCES), min_size=1, max_size=resources, unique=True))
    made: list[CellState] = []
    for name in sorted(names):
        for number, units in enumerate(draw(st.lists(st.integers(1, capacity), min_size=1, max_size=cells))):
            # One cell in six is exclusive: often enough to meet shares, seldom enough to leave room for two holders.
            whole = draw(st.integers(0, 5)) == 5
            label = draw(st.sampled_from(_GPUS)) if name == GPU_MEM else ""
            made.append(CellState(CellId(name, number), Exclusive(units) if whole else units, label=label))
    return tuple(made)


@st.composite
def demands(draw: st.DrawFn, cells: tuple[CellState, ...], resource: str) -> Demand:
    """Return a demand that an idle machine of `cells` has room for; `resource` is one of its own."""
    offered = [cell for cell in cells if cell.id.resource == resource]
    wanted = draw(st.sampled_from(sorted({"", *(cell.label for cell in offered)})))
    capacities = sorted((cell.capacity for cell in offered if wanted in cell.label), reverse=True)
    number = draw(st.integers(1, len(capacities)))
    amount: int | Share = draw(st.integers(1, capacities[number - 1]))
    if draw(st.integers(0, 3)) == 0:
        amount = draw(shares())
    return Demand(resource=resource, amount=amount, cells=number, gpu=GpuFilter(wanted))


@st.composite
def requirements(draw: st.DrawFn, cells: tuple[CellState, ...]) -> Requirement:
    """Return a requirement that an idle machine of `cells` has room for."""
    names = sorted({cell.id.resource for cell in cells})
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    return Requirement.of([draw(demands(cells, name)) for name in chosen])


@st.composite
def situations(draw: st.DrawFn, *, wishes: int = 5, most_overtakes: int = 3) -> Situation:
    """Return a machine, some requirements that fit it, and a number of overtakes to allow."""
    cells = draw(machines())
    alternatives = st.lists(requirements(cells), min_size=2, max_size=3, unique=True).map(Requirement.any_of)
    # Listed twice: plain requirements are drawn twice as often as alternatives.
    wish = st.one_of(requirements(cells), requirements(cells), alternatives)
    wanted = draw(st.lists(wish, min_size=1, max_size=wishes, unique=True))
    return Situation(cells=cells, wishes=tuple(wanted), max_overtakes=draw(st.integers(0, most_overtakes)))


@st.composite
def books(draw: st.DrawFn, *, events: int = 20) -> Book:
    """Return a book as some sequence of requests and endings leaves it: consistent, with holders and a queue."""
    situation = draw(situations())
    keeper = MemoryLedger(situation.cells, max_overtakes=situation.max_overtakes)
    play = Play(situation.cells, [keeper], SCOPES)
    numbers = st.integers(0, 63)
    for kind, which in draw(st.lists(st.tuples(st.integers(0, 5), numbers), max_size=events)):
        wish = situation.wishes[which % len(situation.wishes)]
        if kind < 4:
            play.ask(wish, priority=kind % 2, run=("", "a")[which % 2])
        elif kind == 4:
            play.ask_inside(which, wish)
        else:
            play.end(which)
    return play.book


def limit_units() -> st.SearchStrategy[list[LimitUnit]]:
    """Return units of distinct places, few weights among them, in any order."""
    names = st.sampled_from((*RESOURCES, "gpu", "gpu_mem2", "license.ansys", "z"))
    units = st.builds(
        LimitUnit,
        scope=st.sampled_from(Scope),
        resource=names,
        cell=st.none() | st.integers(0, 12),
        weight=st.integers(1, 3),
    )
    return st.lists(units, max_size=8, unique_by=lambda unit: (unit.scope, unit.resource, unit.cell))

"""Tasks to pack: a seeded generator, the machine they run on, and the time that no schedule of them can beat.

A workload is a function of its seed alone, so that whoever draws it draws the same: `mapped_tasks(500, seed)` and
`unlike_tasks(500, seed)` for the machine `MACHINE`, `few_tasks(12, seed)` for `SMALL`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.support.interleavings import cells

from prefect_slots.model.book import CellId, CellState
from prefect_slots.model.requirement import Demand, Requirement

MACHINE = cells(cpus=[32], gpu_mem=[24, 24, 24, 24], licence=[4], mem=[128])
SMALL = cells(cpus=[8], gpu_mem=[24, 24], licence=[1], mem=[32])


@dataclass(frozen=True)
class Task:
    """What it needs, and for how many seconds."""

    needs: Requirement
    seconds: float


def _needs(dice: random.Random) -> Requirement:
    """Return cores and memory, two of three times some of one card, one of eight times a licence."""
    demands = [
        Demand(resource="cpus", amount=dice.choice((1, 1, 2, 2, 4, 8))),
        Demand(resource="mem", amount=dice.choice((1, 2, 4, 8, 16, 32))),
    ]
    if dice.random() < 2 / 3:
        demands.append(Demand(resource="gpu_mem", amount=dice.choice((2, 4, 6, 8, 12, 16))))
    if dice.random() < 1 / 8:
        demands.append(Demand(resource="licence", amount=1))
    return Requirement.of(demands)


def unlike_tasks(number: int, seed: int) -> list[Task]:
    """Return tasks that have nothing to do with one another, between 1 and 100 s, short ones more often."""
    dice = random.Random(seed)
    return [Task(_needs(dice), 100 ** dice.random()) for _ in range(number)]


def mapped_tasks(number: int, seed: int, kinds: int = 20) -> list[Task]:
    """Return the calls of mapped functions, in any order: each takes half to one and a half of its function's time."""
    dice = random.Random(seed)
    functions = unlike_tasks(kinds, dice.randrange(2**32))
    chosen = (dice.choice(functions) for _ in range(number))
    return [Task(function.needs, function.seconds * dice.uniform(0.5, 1.5)) for function in chosen]


def few_tasks(number: int, seed: int) -> list[Task]:
    """Return unlike tasks of 1 to 9 whole seconds."""
    dice = random.Random(seed)
    return [Task(_needs(dice), float(dice.randint(1, 9))) for _ in range(number)]


def area_bound(tasks: list[Task], machine: tuple[CellState, ...]) -> float:
    """Return the seconds that no schedule beats: the longest task, or all work of a resource on all of it."""
    bound = max(task.seconds for task in tasks)
    for resource in {cell.id.resource for cell in machine}:
        capacity = sum(cell.capacity for cell in machine if cell.id.resource == resource)
        bound = max(bound, sum(task.seconds * amount_of(task, resource) for task in tasks) / capacity)
    return bound


def amount_of(task: Task, resource: str) -> int:
    """Return what the task takes of a resource; every demand here is for one cell."""
    return sum(demand.on(0) for demand in task.needs.demands if demand.resource == resource)


class Room:
    """What is free on a machine while tasks start and end; a card is chosen best-fit, as ours does."""

    def __init__(self, machine: tuple[CellState, ...]) -> None:
        self.free = {cell.id: cell.capacity for cell in machine}

    def take(self, task: Task) -> dict[CellId, int] | None:
        """Take what the task needs, or nothing if it does not fit."""
        taken: dict[CellId, int] = {}
        for demand in task.needs.demands:
            amount = demand.on(0)
            able = [cell for cell, free in self.free.items() if cell.resource == demand.resource and free >= amount]
            if not able:
                return None
            taken[min(able, key=lambda cell: (self.free[cell], cell))] = amount
        for cell, amount in taken.items():
            self.free[cell] -= amount
        return taken

    def give_back(self, taken: dict[CellId, int]) -> None:
        """Give back what a task took."""
        for cell, amount in taken.items():
            self.free[cell] += amount

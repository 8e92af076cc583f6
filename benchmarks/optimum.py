"""The shortest schedule of a few tasks, found by looking at all of them: branch and bound.

Some shortest schedule starts every task at the beginning or when another ends. So the search goes from end to end, and
starts there any set of what fits, on any cards. It turns back where no schedule can beat the best one known (times are
whole seconds): by the work that is left of each resource, and by tasks of which no two run at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import product

from benchmarks.workload import Task, amount_of
from prefect_slots.model.book import CellId, CellState

Running = tuple[tuple[float, int, tuple[CellId, ...]], ...]
"""When each task that runs ends, which it is, and where."""


class Search:
    """All schedules of `tasks` on `machine` that may be shorter than `known`."""

    def __init__(self, tasks: list[Task], machine: tuple[CellState, ...], known: float) -> None:
        # The long ones first: they decide most.
        self._tasks = sorted(tasks, key=lambda task: -task.seconds)
        self._capacity = {cell.id: cell.capacity for cell in machine}
        self._total: dict[str, int] = {}
        for cell in machine:
            self._total[cell.id.resource] = self._total.get(cell.id.resource, 0) + cell.capacity
        self._amounts = [{name: amount_of(task, name) for name in self._total} for task in self._tasks]
        self._cliques = list(self._grow(frozenset(), range(len(self._tasks))))
        self._seen: dict[tuple[frozenset[int], Running], float] = {}
        self.best = known

    def _grow(self, clique: frozenset[int], able: Iterable[int]) -> Iterator[frozenset[int]]:
        """Yield sets of tasks of which no two run at once, each as large as it can be grown in the order of tasks."""
        able = list(able)
        if not able and len(clique) > 1:
            yield clique
        for place, number in enumerate(able):
            yield from self._grow(
                clique | {number}, [other for other in able[place + 1 :] if self._clash(number, other)]
            )

    def _clash(self, one: int, other: int) -> bool:
        single = {cell.resource for cell in self._capacity if self._capacity[cell] == self._total[cell.resource]}
        return any(self._amounts[one][name] + self._amounts[other][name] > self._total[name] for name in single)

    def run(self) -> float:
        """Return the makespan of a shortest schedule."""
        self._from(0.0, frozenset(range(len(self._tasks))), (), 0)
        return self.best

    def _from(self, now: float, waiting: frozenset[int], running: Running, first: int) -> None:
        if not waiting:
            self.best = min(self.best, max(end for end, _, _ in running))
            return
        if self._bound(now, waiting, running) >= self.best:
            return
        if first == 0:
            # The same tasks wait and run, and nothing is left of the others but the time they took.
            state = waiting, tuple(sorted((end - now, number, cells) for end, number, cells in running))
            if self._seen.get(state, float("inf")) <= now:
                return
            self._seen[state] = now
        free = self._free(running)
        for number in sorted(waiting):
            if number >= first:
                for cells in self._places(number, free):
                    started = (now + self._tasks[number].seconds, number, cells)
                    self._from(now, waiting - {number}, (*running, started), number + 1)
        if running:
            after = min(end for end, _, _ in running)
            # Whatever would be over by then had better run meanwhile.
            if any(now + self._tasks[number].seconds <= after and self._places(number, free) for number in waiting):
                return
            self._from(after, waiting, tuple(entry for entry in running if entry[0] > after), 0)

    def _bound(self, now: float, waiting: frozenset[int], running: Running) -> float:
        left = {number: self._tasks[number].seconds for number in waiting}
        left.update({number: end - now for end, number, _ in running})
        bound = max(left.values())
        for resource, total in self._total.items():
            bound = max(
                bound, sum(seconds * self._amounts[number][resource] for number, seconds in left.items()) / total
            )
        for clique in self._cliques:
            bound = max(bound, sum(left[number] for number in clique if number in left))
        return now + math.ceil(bound - 1e-9)

    def _free(self, running: Running) -> dict[CellId, int]:
        free = dict(self._capacity)
        for _, number, cells in running:
            for cell in cells:
                free[cell] -= amount_of(self._tasks[number], cell.resource)
        return free

    def _places(self, number: int, free: dict[CellId, int]) -> list[tuple[CellId, ...]]:
        choices: list[list[CellId]] = []
        for demand in self._tasks[number].needs.demands:
            # Of cells with equally much free, one is as good as another.
            unlike = {units: cell for cell, units in free.items() if cell.resource == demand.resource}
            choices.append([cell for units, cell in unlike.items() if units >= demand.on(0)])
        return list(product(*choices))

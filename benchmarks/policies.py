"""Schedulers in virtual time: ours, the real one, with every law watched; and models of FIFO, Ray's and Dask's.

All tasks are there at the beginning, in one order. What the models follow:

FIFO  the first task that does not fit holds up all others
Ray   `LocalTaskManager::DispatchScheduledTasksToWorkers`: a queue for each shape, looked at in the order of a hash map
      (a seeded one here); each starts tasks until one does not fit; while all together ask for more cores than there
      are, a shape is passed over of which more tasks run than the average of all waiting shapes
Dask  a worker for each card with its part of the machine, as `--resources` declares it; a task goes to the worker with
      the least work queued (known exactly here); in each worker the first of the constrained tasks holds up the others
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable

from tests.support import laws

from benchmarks.workload import Room, Task, amount_of
from prefect_slots.model.amount import duration_asked
from prefect_slots.model.book import CellId, CellState, Granted
from prefect_slots.model.requirement import Requirement
from prefect_slots.testing.bookkeeping import MemoryLedger
from prefect_slots.testing.play import Play, Step

Machine = tuple[CellState, ...]


def ours(tasks: list[Task], machine: Machine, max_overtakes: int, *, words: bool = False) -> float:
    """Return the makespan under `decide`; with `words`, every task says how long it takes.

    Raises:
        AssertionError: if a law is broken on the way, or somebody is never served.
    """
    play = Play(machine, [MemoryLedger(machine, max_overtakes=max_overtakes)], tick=0.0)
    overtakes = laws.Overtakes(max_overtakes)
    seconds: dict[str, float] = {}
    running: list[tuple[float, str]] = []
    now = 0.0

    def watch(step: Step) -> None:
        laws.never_overcommitted(step)
        laws.all_or_nothing(step)
        laws.no_straddling(step)
        overtakes.watch(step)
        overtakes.check(step.after)
        laws.work_conserving(step, max_overtakes)
        for change in step.changes:
            if isinstance(change, Granted):
                heapq.heappush(running, (now + seconds[change.grant.id], change.grant.id))

    play.watchers.append(watch)
    for number, task in enumerate(tasks, start=1):
        seconds[f"t{number}"] = task.seconds
        play.ask(task.needs, run="all", expected=duration_asked(task.seconds) if words else None)
    while running:
        ends, ended = heapq.heappop(running)
        play.pass_time(ends - now)
        now = ends
        play.end([grant.id for grant in play.book.grants].index(ended))
    play.drain([])
    assert not play.book.lines
    return now


def _run(room: Room, start: Callable[[Callable[[Task], bool]], None]) -> float:
    """Let a policy start what it can, whenever something has ended; return when the last has."""
    running: list[tuple[float, int, Task, dict[CellId, int]]] = []
    now, number = 0.0, 0

    def begin(task: Task) -> bool:
        nonlocal number
        taken = room.take(task)
        if taken is not None:
            number += 1
            heapq.heappush(running, (now + task.seconds, number, task, taken))
        return taken is not None

    start(begin)
    while running:
        now, _, _, taken = heapq.heappop(running)
        room.give_back(taken)
        start(begin)
    return now


def fifo(tasks: list[Task], machine: Machine) -> float:
    """Return the makespan in strict order."""
    queue = deque(tasks)

    def start(begin: Callable[[Task], bool]) -> None:
        while queue and begin(queue[0]):
            queue.popleft()

    return _run(Room(machine), start)


def ray(tasks: list[Task], machine: Machine, seed: int) -> float:
    """Return the makespan under Ray's policy."""
    shapes: dict[Requirement, deque[Task]] = {}
    for task in tasks:
        shapes.setdefault(task.needs, deque()).append(task)
    order = list(shapes)
    random.Random(seed).shuffle(order)
    ends: list[tuple[float, int, Requirement, dict[CellId, int]]] = []
    room, of_shape = Room(machine), Counter[Requirement]()
    cores = sum(cell.capacity for cell in machine if cell.id.resource == "cpus")
    now, number = 0.0, 0
    while True:
        for shape in order:
            queues = [shapes[other] for other in order if shapes[other]]
            asked = sum(len(queue) * amount_of(queue[0], "cpus") for queue in queues)
            if asked > cores and of_shape[shape] > of_shape.total() // len(queues):
                continue
            while shapes[shape] and (taken := room.take(shapes[shape][0])) is not None:
                number += 1
                heapq.heappush(ends, (now + shapes[shape].popleft().seconds, number, shape, taken))
                of_shape[shape] += 1
        if not ends:
            return now
        now, _, shape, taken = heapq.heappop(ends)
        room.give_back(taken)
        of_shape[shape] -= 1


def dask(tasks: list[Task], machine: Machine) -> float:
    """Return the makespan with a worker for each card."""
    cards = [cell for cell in machine if cell.id.resource == "gpu_mem"]
    workers = [
        tuple(
            CellState(id=cell.id, capacity=cell.capacity if cell in cards else cell.capacity // len(cards))
            for cell in machine
            if cell not in cards or cell is card
        )
        for card in cards
    ]
    queues: list[list[Task]] = [[] for _ in workers]
    for task in tasks:
        # The work of a task is what it keeps others from: the largest part of a worker that it takes, for its time.
        min(queues, key=lambda queue: sum(_work(queued, workers[0]) for queued in queue)).append(task)
    return max(fifo(queue, worker) for queue, worker in zip(queues, workers, strict=True))


def _work(task: Task, worker: Machine) -> float:
    return task.seconds * max(amount_of(task, cell.id.resource) / cell.capacity for cell in worker)

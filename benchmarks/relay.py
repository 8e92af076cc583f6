"""One slot that goes from hand to hand, with always the same number of processes waiting for it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from multiprocessing.connection import wait

from benchmarks.crew import Ask, Started, Turn, Worker

Asking = Callable[[int], Ask]
"""What the n-th to ask asks for."""

# As a part of the time that a holder holds: who always asked when a holder starts would, where waiters ask again after
# about that time, always or never be there in time.
_LATEST_ARRIVAL = 0.8
# How much longer than others the first holder holds it, for the others to queue.
_SETTLE_SECONDS = 0.5
_SETTLE_SECONDS_EACH = 0.08


def relay(
    workers: Sequence[Worker],
    asking: Asking,
    handoffs: int,
    *,
    queued: Callable[[int], None] = lambda _: None,
    on_start: Callable[[int], None] = lambda _: None,
) -> list[float]:
    """Let the slot change hands, and return the seconds from each end of a holder's body to the next one's start.

    Whoever has given the slot back asks again only once another holds it, at a random time while that one does, so that
    all but one wait whenever it is given back, and nobody hands it to itself.

    Args:
        workers: All of those who take part; one more than wait.
        asking: What the n-th to ask asks for.
        handoffs: How many to measure; those who wait after the last get the slot in turn and drop it at once.
        queued: Returns once so many wait, for the first to queue in the order in which they are asked to.
        on_start: Told the number of each holder, from 0, when it has started.
    """
    asked = started = 0
    chance = random.Random(0)
    turns: list[Turn] = []
    busy: dict[object, Worker] = {}
    resting = list(workers)

    def ask(worker: Worker, *, longer: float = 0.0, before: float = 0.0) -> None:
        nonlocal asked
        wanted = asking(asked)
        asked += 1
        busy[worker.pipe] = worker
        worker.ask(replace(wanted, seconds=wanted.seconds + longer, before=before * wanted.seconds))

    ask(resting.pop(0), longer=_SETTLE_SECONDS + _SETTLE_SECONDS_EACH * len(workers))
    while busy:
        for pipe in wait([worker.pipe for worker in busy.values()]):
            worker = busy[pipe]
            said = worker.reply()
            if isinstance(said, Started):
                on_start(started)
                started += 1
                if started == handoffs + 1:
                    for each in busy.values():
                        each.stop()
            else:
                turns.append(said)
                del busy[pipe]
                resting.append(worker)
        if started > handoffs:
            continue
        somebody_else_holds = started > len(turns)
        while resting and somebody_else_holds:
            ask(resting.pop(0), before=chance.uniform(0, _LATEST_ARRIVAL) if turns else 0.0)
            if not turns:
                queued(len(busy) - 1)
    return gaps(turns)[:handoffs]


def gaps(turns: Sequence[Turn]) -> list[float]:
    """Return the seconds between the end of each turn and the start of the next."""
    ordered = sorted(turns, key=lambda turn: turn.started)
    return [after.started - before.ended for before, after in pairwise(ordered)]

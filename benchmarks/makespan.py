"""How long twenty items take in four processes when the middle one of three steps needs one of two slots.

Each item is prepared (0.5 s), scanned (1 s, in a slot) and written down (0.25 s); a process takes the next item when it
is done with one. No schedule can end sooner than the larger of

- a first preparation, twenty scans two at a time, a last writing: 0.5 + 20 * 1 / 2 + 0.25 s;
- all work in four processes: 20 * (0.5 + 1 + 0.25) / 4 s.

The first is 10.75 s, and a schedule reaches it: with four processes two have always prepared an item when the other two
leave the slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import wait

from benchmarks.case import BOUND, OURS, PREFECT, Bar, Measured, Run, pick
from benchmarks.crew import Ask, Turn, Worker, clock, crew
from benchmarks.numbers import median, summary
from benchmarks.stage import staged

CASE = "20 items, 4 processes, 2 slots"
ITEMS = 20
PROCESSES = 4
SLOTS = 2
PREPARE = 0.5
SCAN = 1.0
WRITE = 0.25
_DECLARED = f"[resources.scanner]\ncapacity = {SLOTS}\n"


def bound() -> float:
    """Return the seconds that no schedule can beat; see above."""
    by_slots = PREPARE + ITEMS * SCAN / SLOTS + WRITE
    by_processes = ITEMS * (PREPARE + SCAN + WRITE) / PROCESSES
    return max(by_slots, by_processes)


def measure(run: Run) -> list[Measured]:
    """Play all items with ours and with stock Prefect, in turn."""
    rounds = 1 if run.quick else 5
    run.expect(2 + 2 * rounds)
    seconds: dict[str, list[float]] = {OURS: [], PREFECT: []}
    with staged(run) as stage, crew() as workers:
        box = stage.machine(_DECLARED)
        limit = stage.limit(SLOTS)
        item = Ask(seconds=SCAN, before=PREPARE, after=WRITE)
        items = {OURS: replace(item, needs={"scanner": 1}), PREFECT: replace(item, limits=[(limit, 1)])}
        run.step("starting processes")
        hired = {peer: workers.hire(PROCESSES, box.env) for peer in items}
        for peer, ask in items.items():
            for worker in hired[peer]:
                worker.turn(replace(ask, seconds=0.0, before=0.0, after=0.0))
        stage.seed(limit, SCAN)
        for number in range(rounds):
            for peer, ask in items.items():
                stage.settle()
                run.step(f"round {number + 1} of {rounds}: {peer}")
                seconds[peer].append(_play(hired[peer], ask))
    ratios = {peer: median(times) / bound() for peer, times in seconds.items()}
    return [
        *(each for peer, times in seconds.items() for each in summary(CASE, peer, times)),
        Measured(case=CASE, peer=BOUND, metric="median", value=bound() * 1000, unit="ms"),
        *(Measured(case=CASE, peer=peer, metric="ratio", value=ratio, unit="ratio") for peer, ratio in ratios.items()),
    ]


def _play(workers: Sequence[Worker], item: Ask) -> float:
    began = clock()
    left = ITEMS
    busy: dict[object, Worker] = {}
    turns: list[Turn] = []
    for worker in workers:
        busy[worker.pipe] = worker
        worker.ask(item)
        left -= 1
    while busy:
        for pipe in wait([worker.pipe for worker in busy.values()]):
            worker = busy[pipe]
            said = worker.reply()
            if not isinstance(said, Turn):
                continue
            turns.append(said)
            if left:
                worker.ask(item)
                left -= 1
            else:
                del busy[pipe]
    return max(turn.done for turn in turns) - began


def bars(measured: Sequence[Measured]) -> list[Bar]:
    """At most a tenth above the bound."""
    ratio = pick(measured, CASE, OURS, "ratio")
    return [Bar(text="ours / bound", value=ratio, unit="ratio", at_most=1.1)] if ratio is not None else []

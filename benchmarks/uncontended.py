"""What it costs to acquire and release when nobody is in the way: one limit, and four with four different weights.

What is told is how long the caller is held up. Ours gives slots back while the caller goes on. Stock Prefect occupies
one number on all limits of a call, so that four weights are four `concurrency` blocks, one inside the other. The bare
increment is told for scale. The server is left alone for a moment before each.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.case import OURS, PREFECT, RAW, Bar, Measured, Run, pick
from benchmarks.crew import Ask, Worker, crew
from benchmarks.numbers import median, summary
from benchmarks.stage import staged

ONE = "acquire and release, 1 limit"
FOUR = "acquire and release, 4 limits of different weights"
ROUND_TRIP = "one increment"
_AMOUNTS = {"alpha": 1, "beta": 2, "gamma": 3, "delta": 4}
_DECLARED = "".join(f"[resources.{name}]\ncapacity = {amount}\n" for name, amount in _AMOUNTS.items())


def measure(run: Run) -> list[Measured]:
    """Let one process of each peer acquire and release in turn."""
    rounds = 6 if run.quick else 40
    run.expect(1 + rounds)
    with staged(run) as stage, crew() as workers:
        box = stage.machine(_DECLARED)
        stock = [(stage.limit(amount), amount) for amount in _AMOUNTS.values()]
        asks = {
            (ONE, OURS): Ask(needs={"alpha": 1}),
            (ONE, PREFECT): Ask(limits=stock[:1]),
            (FOUR, OURS): Ask(needs=_AMOUNTS),
            (FOUR, PREFECT): Ask(limits=stock),
        }
        who = {peer: workers.hire(1, box.env)[0] for peer in (OURS, PREFECT)}
        bare = stage.limit()
        for (_, peer), ask in asks.items():
            who[peer].turn(ask)
        times: dict[tuple[str, str], list[float]] = {of: [] for of in (*asks, (ROUND_TRIP, RAW))}
        stage.round_trips(bare, 3)
        for number in range(rounds):
            run.step(f"round {number + 1} of {rounds}")
            for of, ask in asks.items():
                stage.settle()
                times[of].append(_cost(who[of[1]], ask))
            stage.settle()
            times[ROUND_TRIP, RAW] += stage.round_trips(bare, 1)
    ratios = {case: median(times[case, OURS]) / median(times[case, PREFECT]) for case in (ONE, FOUR)}
    return [
        *(each for (case, peer), seconds in times.items() for each in summary(case, peer, seconds)),
        *(Measured(case=c, peer=OURS, metric="ratio", value=value, unit="ratio") for c, value in ratios.items()),
    ]


def _cost(worker: Worker, ask: Ask) -> float:
    turn = worker.turn(ask)
    return turn.started - turn.asked + turn.left - turn.ended


def bars(measured: Sequence[Measured]) -> list[Bar]:
    """Return one bar for one limit and one for four."""
    return [
        Bar(text=f"{case}: ours / stock", value=ratio, unit="ratio", at_most=0.35)
        for case in (ONE, FOUR)
        if (ratio := pick(measured, case, OURS, "ratio")) is not None
    ]

"""From machine to machine: one floating seat, two ledgers that share nothing but a Prefect server.

Each machine has one process; the seat goes to and fro between them. Stock Prefect beside it, between two processes on a
limit of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.case import OURS, PREFECT, Bar, Measured, Run, pick
from benchmarks.crew import Ask, crew
from benchmarks.numbers import summary
from benchmarks.relay import relay
from benchmarks.stage import staged

CASE = "2 s holders, one seat, two machines"
_HOLD = 2.0
_FEATURE = "benchmark"
_DECLARED = f'[license.{_FEATURE}]\nseats = 1\nscope = "fleet"\n'


def measure(run: Run) -> list[Measured]:
    """Let the seat change hands, ours and stock Prefect's in turn."""
    blocks, handoffs = (1, 4) if run.quick else (3, 7)
    run.expect(2 + 2 * blocks)
    seconds: dict[str, list[float]] = {OURS: [], PREFECT: []}
    with staged(run) as stage, crew() as workers:
        machines = [stage.machine(_DECLARED) for _ in range(2)]
        limit = stage.limit()
        asks = {
            OURS: Ask(needs={"license": {_FEATURE: 1}}, seconds=_HOLD),
            PREFECT: Ask(limits=[(limit, 1)], seconds=_HOLD),
        }
        run.step("starting processes")
        hired = {peer: [workers.hire(1, machine.env)[0] for machine in machines] for peer in asks}
        for peer, ask in asks.items():
            for worker in hired[peer]:
                worker.turn(replace(ask, seconds=0.0))
        for number in range(blocks):
            for peer, ask in asks.items():
                run.step(f"block {number + 1} of {blocks}: {peer}")
                stage.seed(limit, _HOLD)
                stage.settle()
                seconds[peer] += relay(hired[peer], lambda _, ask=ask: ask, handoffs)
    return [each for peer, times in seconds.items() for each in summary(CASE, peer, times)]


def bars(measured: Sequence[Measured]) -> list[Bar]:
    """Half a second from machine to machine."""
    middle = pick(measured, CASE, OURS, "median")
    return [Bar(text="ours, median", value=middle, unit="ms", at_most=500)] if middle is not None else []

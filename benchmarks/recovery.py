"""From the `kill -9` of a holder to the next one's start, while one process waits.

A killed process of ours is found by whoever waits; one of stock Prefect's holds its slot until its lease runs out. Ours
is killed twenty times, at random moments of the waiter's watch; stock Prefect once, with the shortest lease there is.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from tests.support.polling import until

from benchmarks.case import OURS, PREFECT, Bar, Measured, Run, pick
from benchmarks.crew import Ask, Crew, Started, Worker, clock, crew
from benchmarks.numbers import summary
from benchmarks.stage import staged

CASE = "kill -9 to the next holder's start"
STOCK = f"{CASE}, lease of 60 s"
_DECLARED = "[resources.scanner]\ncapacity = 1\n"
_FOREVER = 3600.0
_WATCH_SECONDS = 0.5


def measure(run: Run) -> list[Measured]:
    """Kill, and see how long the waiter waits."""
    kills = 5 if run.quick else 20
    run.expect(1 + kills + (not run.quick))
    chance = random.Random(0)
    seconds: list[float] = []
    with staged(run) as stage, crew() as workers:
        box = stage.machine(_DECLARED)
        waiter = workers.hire(1, box.env)[0]
        ask = Ask(needs={"scanner": 1}, seconds=_FOREVER)
        for number in range(kills):
            run.step(f"kill {number + 1} of {kills}")
            holder = _holding(workers, ask, box.env)
            waiter.ask(ask)
            until(lambda: box.rows("ticket") == 1, what="one waiting")
            time.sleep(chance.uniform(0, _WATCH_SECONDS))
            seconds.append(_from_kill_to_start(holder, waiter))
        measured = summary(CASE, OURS, seconds)
        if not run.quick:
            run.step("stock Prefect, until a lease of 60 s runs out")
            stock = Ask(limits=[(stage.limit(), 1)], seconds=_FOREVER, lease_seconds=60)
            holder = _holding(workers, stock, box.env)
            waiter.ask(stock)
            time.sleep(1)  # nothing tells that a process waits for Prefect's server
            measured += summary(STOCK, PREFECT, [_from_kill_to_start(holder, waiter)])
    return measured


def _holding(workers: Crew, ask: Ask, env: dict[str, str]) -> Worker:
    holder = workers.hire(1, env)[0]
    holder.ask(ask)
    holder.reply()
    return holder


def _from_kill_to_start(holder: Worker, waiter: Worker) -> float:
    killed = clock()
    holder.process.kill()
    started = waiter.reply()
    if not isinstance(started, Started):
        raise TypeError("the waiter gave back what it had not got")
    waiter.stop()
    waiter.reply()
    return started.at - killed


def bars(measured: Sequence[Measured]) -> list[Bar]:
    """Every single one within a second."""
    slowest = pick(measured, CASE, OURS, "max")
    return [Bar(text="the slowest", value=slowest, unit="ms", at_most=1000)] if slowest is not None else []

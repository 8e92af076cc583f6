"""What waiting costs the server: HTTP requests for each grant while many wait, counted by a proxy on the way.

A slot changes hands among one more process than wait. Counted is from the second holder's start to the last's, so that
neither connecting nor the first rush is in it. Lease renewals and events are told apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.case import OURS, PREFECT, Bar, Measured, Run, pick
from benchmarks.counting_proxy import EVENTS, RENEWALS, REQUESTS, Proxy, counting_proxy
from benchmarks.crew import Ask, Crew, crew
from benchmarks.relay import Asking, relay
from benchmarks.stage import Stage, in_order, staged

SAME = "all ask for the same"
DIFFERENT = "neighbours ask for different amounts"
WAITERS = (1, 10, 50)
_MANY = 10
_HOLD = 0.2
_DECLARED = "[resources.seats]\ncapacity = 3\n"


def measure(run: Run) -> list[Measured]:
    """Count for each number of waiters and each peer."""
    numbers = WAITERS[:2] if run.quick else WAITERS
    grants = 8 if run.quick else 40
    run.expect(1 + 3 * len(numbers))
    measured: list[Measured] = []
    with staged(run) as stage, counting_proxy(stage.url) as proxy:
        stage.go_through(proxy.url)
        for waiters in numbers:
            stock = stage.limit()
            asking: list[tuple[str, str, Asking]] = [
                (SAME, OURS, lambda _: Ask(needs={"seats": 2}, seconds=_HOLD)),
                (DIFFERENT, OURS, lambda n: Ask(needs={"seats": 2 + n % 2}, seconds=_HOLD)),
                (SAME, PREFECT, lambda _, name=stock: Ask(limits=[(name, 1)], seconds=_HOLD)),
            ]
            for what, peer, ask in asking:
                case = name_of(waiters, what)
                run.step(f"{case}: {peer}")
                if peer == PREFECT:
                    stage.seed(stock, _HOLD)
                with crew() as workers:
                    counts = _count(stage, proxy, workers, ask, waiters, grants)
                measured += [
                    Measured(case=of(case, kind), peer=peer, metric="per_grant", value=counts[kind], unit=kind)
                    for kind in (REQUESTS, RENEWALS, EVENTS)
                ]
    return measured


def _count(stage: Stage, proxy: Proxy, workers: Crew, asking: Asking, waiters: int, grants: int) -> dict[str, float]:
    box = stage.machine(_DECLARED)
    hired = workers.hire(waiters + 1, box.env)
    queued = in_order(box) if asking(0).needs else lambda _: None
    for number, worker in enumerate(hired):
        worker.turn(replace(asking(number), seconds=0.0))
    stage.settle()
    seen: dict[int, Counter[str]] = {}

    def note(number: int) -> None:
        seen[number] = Counter(proxy.counts)

    relay(hired, asking, grants, queued=queued, on_start=note)
    return {kind: (seen[grants][kind] - seen[1][kind]) / (grants - 1) for kind in (REQUESTS, RENEWALS, EVENTS)}


def name_of(waiters: int, what: str) -> str:
    """Return what a case is called."""
    return f"{waiters} waiting, {what}"


def of(case: str, kind: str) -> str:
    """Return what one kind of message of a case is called; plain requests need no word."""
    return case if kind == REQUESTS else f"{case}: {kind}"


def bars(measured: Sequence[Measured]) -> list[Bar]:
    """Two requests for a lease and one for a grant at most; far fewer where leases can change owners."""
    found: list[Bar] = []
    for waiters in WAITERS:
        for what in (SAME, DIFFERENT):
            case = name_of(waiters, what)
            value = pick(measured, case, OURS, "per_grant")
            if value is not None:
                most = 0.5 if what == SAME and waiters >= _MANY else 3
                found.append(Bar(text=case, value=value, unit=REQUESTS, at_most=most))
    return found

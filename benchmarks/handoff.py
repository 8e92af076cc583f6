"""From the end of one holder's body to the start of the next one's, on a limit of one.

Peers: ours handed over (all ask for the same, so that leases may change owners inside the ledger), ours not handed over
(neighbours in the queue ask for 2 and 3 of 3 units, so that each lease is given back and another taken), Prefect's
`concurrency` on a limit of 1, one bare increment on a connection kept alive (`raw`), and a POSIX semaphore between the
same processes (`bound`); the increment, like all others, after as long as the shortest holders hold. The limit's
average occupancy, by which Prefect tells its waiters when to come back, is what the holders really take, and once 30 s,
as after long jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tests.support.boxes import Box

from benchmarks.case import BOUND, OURS, PREFECT, RAW, Bar, Measured, Run, pick
from benchmarks.crew import Ask, Crew, Worker, crew
from benchmarks.numbers import summary
from benchmarks.relay import Asking, relay
from benchmarks.stage import Stage, in_order, names, staged

HANDED = "handed over"
NOT_HANDED = "not handed over"
ROUND_TRIP = "one increment"
_DECLARED = "[resources.scanner]\ncapacity = 1\n[resources.seats]\ncapacity = 3\n"
_SCANNER = "scanner"
_SEATS = "seats"


@dataclass(frozen=True, kw_only=True)
class Case:
    """How long holders hold, how many wait, what the limit remembers, and how many hand-offs of each peer to measure.

    Attributes:
        blocks: How often each peer has its turn.
        handoffs: Hand-offs in each of our turns.
        others: Hand-offs in each turn of the others.
    """

    hold: float
    waiters: int
    occupancy: float
    blocks: int
    handoffs: int
    others: int

    @property
    def name(self) -> str:
        """What it is called in the tables."""
        after = "" if self.occupancy == self.hold else f" after {self.occupancy:g} s ones"
        return f"{self.hold:g} s holders{after}, {self.waiters} waiting"


# Averages of 30 s last for one hand-off only: the 2 s after it are counted in.
AFTER_LONG = Case(hold=2, waiters=1, occupancy=30, blocks=3, handoffs=1, others=1)
FULL = (
    Case(hold=2, waiters=1, occupancy=2, blocks=2, handoffs=4, others=5),
    Case(hold=2, waiters=3, occupancy=2, blocks=2, handoffs=3, others=3),
    Case(hold=2, waiters=20, occupancy=2, blocks=1, handoffs=5, others=4),
    Case(hold=0.2, waiters=1, occupancy=0.2, blocks=3, handoffs=14, others=6),
    Case(hold=0.2, waiters=3, occupancy=0.2, blocks=3, handoffs=14, others=6),
    Case(hold=0.2, waiters=20, occupancy=0.2, blocks=1, handoffs=40, others=10),
    AFTER_LONG,
)
QUICK = (
    Case(hold=2, waiters=1, occupancy=2, blocks=1, handoffs=2, others=2),
    Case(hold=0.2, waiters=1, occupancy=0.2, blocks=1, handoffs=10, others=5),
)


@dataclass(frozen=True)
class Contender:
    """Who takes part in a case, with processes of its own.

    Attributes:
        label: What is added to the case's name.
        seeded: Limits on the server whose average occupancy is set before each block.
    """

    peer: str
    label: str
    asking: Asking
    handoffs: int
    seeded: list[str]
    workers: list[Worker]
    queued: Callable[[int], None]


def measure(run: Run) -> list[Measured]:
    """Play every case, all peers in turn."""
    cases = QUICK if run.quick else FULL
    run.expect(1 + sum(1 + 4 * case.blocks for case in cases))
    measured: list[Measured] = []
    with staged(run) as stage:
        bare = stage.limit()
        round_trips = stage.round_trips(bare, 5)[:0]
        idle = min(case.hold for case in cases)
        for case in cases:
            measured += _play(run, stage, case, lambda: round_trips.extend(stage.round_trips(bare, 10, idle)))
    return [*measured, *summary(ROUND_TRIP, RAW, round_trips)]


def _play(run: Run, stage: Stage, case: Case, bare: Callable[[], None]) -> list[Measured]:
    gaps: dict[tuple[str, str], list[float]] = {}
    run.step(f"{case.name}: starting processes")
    with crew() as all_workers:
        contenders = _contenders(stage, case, all_workers)
        for _ in range(case.blocks):
            for one in contenders:
                run.step(f"{case.name}: {one.peer} {one.label}")
                for limit in one.seeded:
                    stage.seed(limit, case.occupancy)
                stage.settle()
                found = relay(one.workers, one.asking, one.handoffs, queued=one.queued)
                gaps.setdefault((one.label, one.peer), []).extend(found)
            bare()
    return [
        each
        for (label, peer), seconds in gaps.items()
        for each in summary(f"{case.name}, {label}" if label else case.name, peer, seconds)
    ]


def _contenders(stage: Stage, case: Case, all_workers: Crew) -> list[Contender]:
    box = stage.machine(_DECLARED)
    stock = stage.limit()
    asking: list[tuple[str, str, Asking, int, list[str]]] = [
        (OURS, HANDED, lambda _: Ask(needs={_SCANNER: 1}, seconds=case.hold), case.handoffs, names(box, [_SCANNER])),
        (OURS, NOT_HANDED, lambda n: _seats(n, case.hold), case.handoffs, names(box, [_SEATS])),
        (PREFECT, "", lambda _: Ask(limits=[(stock, 1)], seconds=case.hold), case.others, [stock]),
        (BOUND, "", lambda _: Ask(seconds=case.hold), case.others, []),
    ]
    return [
        Contender(
            peer,
            label,
            ask,
            handoffs,
            seeded,
            _warm(all_workers, case, box, ask),
            in_order(box) if peer == OURS else _at_once,
        )
        for peer, label, ask, handoffs, seeded in asking
    ]


def _at_once(_: int) -> None:
    """Let all queue as they come."""


def _warm(all_workers: Crew, case: Case, box: Box, asking: Asking) -> list[Worker]:
    workers = all_workers.hire(case.waiters + 1, box.env)
    for number, worker in enumerate(workers):
        worker.turn(replace(asking(number), seconds=0.0))
    return workers


def _seats(number: int, seconds: float) -> Ask:
    # 2 and 3 of 3: no two fit, and no two neighbours are alike.
    return Ask(needs={_SEATS: 2 + number % 2}, seconds=seconds)


def bars(measured: Sequence[Measured]) -> list[Bar]:
    """Return the bars of every case that was measured."""
    found: list[Bar] = []
    trip = pick(measured, ROUND_TRIP, RAW, "median")
    for case in FULL:
        handed, not_handed = f"{case.name}, {HANDED}", f"{case.name}, {NOT_HANDED}"
        middle, p95 = pick(measured, handed, OURS, "median"), pick(measured, handed, OURS, "p95")
        other = pick(measured, not_handed, OURS, "median")
        stock, bound = pick(measured, case.name, PREFECT, "median"), pick(measured, case.name, BOUND, "median")
        if middle is None or p95 is None or other is None or stock is None or bound is None or trip is None:
            continue
        found += [
            Bar(text=f"{handed}: median", value=middle, unit="ms", at_most=1),
            Bar(text=f"{handed}: p95", value=p95, unit="ms", at_most=3),
            Bar(text=f"{handed}: median / semaphore", value=middle / bound, unit="ratio", at_most=10),
            Bar(text=f"{not_handed}: median / one increment", value=other / trip, unit="ratio", at_most=3),
        ]
        if case.hold == 2 and case.waiters == 1:
            found += [
                Bar(text=f"{handed}: stock / ours", value=stock / middle, unit="ratio", at_least=200),
                Bar(text=f"{not_handed}: stock / ours", value=stock / other, unit="ratio", at_least=20),
            ]
    return found

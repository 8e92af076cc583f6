"""What one grant costs the ledger while others wait: the transaction in which a holder leaves and the next is granted.

In one process straight on the ledger, without a server. No two requests fit at once, so every release grants exactly
one ticket; whoever was granted is replaced by a new ticket, not timed. Tickets are alike within a shape.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.case import OURS, Bar, Measured, Run, pick
from benchmarks.crew import clock
from benchmarks.numbers import summary
from prefect_slots.ledger import book, registry
from prefect_slots.ledger.folder import open_folder
from prefect_slots.ledger.owner import Owner
from prefect_slots.ledger.store import Ledger
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.model.book import Asked, Queued, Shape, Ticket
from prefect_slots.model.request import Request
from prefect_slots.model.requirement import declare
from prefect_slots.model.resource import Cell, Inventory, Resource
from prefect_slots.scheduling.decide import decide

TICKETS = (10, 100, 1_000, 10_000)
FEW = 5
MANY = 200
RUNS = 500
_FEATURE = "benchmark"


class Queue:
    """A ledger in which one holds and others wait."""

    def __init__(self, ledger: Ledger, tickets: int, shapes: int, runs: int) -> None:
        self._ledger = ledger
        self._request = Request(label="benchmark")
        self._asked = 0
        self._runs = runs
        # Amounts from n to 2n-1 of 2n-1: no two fit at once.
        self._shapes = [Shape(requirement=declare(license={_FEATURE: shapes + n})) for n in range(shapes)]
        seats = Resource(name=f"license.{_FEATURE}", unit="seats", cells=(Cell(key="0", capacity=2 * shapes - 1),))
        ledger.transact(lambda tx: registry.register(tx, Inventory(resources=(seats,))))
        ledger.transact(lambda tx: self._fill(tx, tickets))

    def _fill(self, tx: Transaction, tickets: int) -> None:
        self._enqueue(tx)
        for _ in range(tickets):
            # As the scheduler would have it where nothing fits; to ask it ten thousand times takes minutes.
            book.write(tx, Queued(shape=self._next_shape(), ticket=self._next_ticket(tx)), self._request)

    def _enqueue(self, tx: Transaction) -> None:
        tx.apply(Asked(shape=self._next_shape(), ticket=self._next_ticket(tx)), self._request)

    def _next_shape(self) -> Shape:
        self._asked += 1
        return self._shapes[self._asked % len(self._shapes)]

    def _next_ticket(self, tx: Transaction) -> Ticket:
        turn, run = divmod(self._asked, self._runs)
        return Ticket(id=f"t{self._asked}", seq=tx.next_seq(), turn=turn, run=f"run {run}")

    def grant(self) -> float:
        """Let the holder leave and return the seconds that took; somebody else holds then, and as many wait."""
        (holder,) = self._ledger.read(lambda tx: tx.all("SELECT id FROM held"))
        began = clock()
        self._ledger.transact(lambda tx: tx.leave(holder[0]))
        took = clock() - began
        self._ledger.transact(self._enqueue)
        return took


def measure(run: Run) -> list[Measured]:
    """Grant in every queue in turn, many times."""
    rounds = 50 if run.quick else 400
    cases = {name_of(n, FEW): (n, FEW, 1) for n in TICKETS}
    cases |= {name_of(n, min(n, MANY)): (n, min(n, MANY), 1) for n in TICKETS[1:]}
    cases[name_of(TICKETS[-1], FEW, RUNS)] = (TICKETS[-1], FEW, RUNS)
    run.expect(len(cases) + 1)
    seconds: dict[str, list[float]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory(prefix="prefect-slots-bench-") as place, ExitStack() as stack:
        queues: dict[str, Queue] = {}
        for number, (case, size) in enumerate(cases.items()):
            run.step(f"filling the queue: {case}")
            queues[case] = stack.enter_context(_queue(Path(place) / str(number), *size))
        run.step("granting")
        for _ in range(rounds):
            for case, queue in queues.items():
                seconds[case].append(queue.grant())
    return [each for case, times in seconds.items() for each in summary(case, OURS, times)]


@contextmanager
def _queue(state: Path, tickets: int, shapes: int, runs: int) -> Generator[Queue]:
    folder = open_folder(state)
    owner = Owner.start(folder)
    ledger = Ledger(folder, partial(decide, max_overtakes=20), owner.id)
    try:
        ledger.transact(lambda tx: tx.enrol(owner, ""))
        yield Queue(ledger, tickets, shapes, runs)
    finally:
        ledger.close()
        owner.end(folder)


def name_of(tickets: int, shapes: int, runs: int = 1) -> str:
    """Return what a case is called."""
    of = f" of {runs} runs" if runs > 1 else ""
    return f"one grant, {tickets:,} waiting{of}, {shapes} shapes"


def bars(measured: Sequence[Measured]) -> list[Bar]:
    """A thousand times as many tickets may cost three times as much, whoever asks."""
    few = pick(measured, name_of(TICKETS[0], FEW), OURS, "median")
    found: list[Bar] = []
    for text, runs in (("10,000 waiting", 1), (f"10,000 waiting of {RUNS} runs", RUNS)):
        many = pick(measured, name_of(TICKETS[-1], FEW, runs), OURS, "median")
        if few is not None and many is not None:
            found.append(Bar(text=f"{text} / 10 waiting, 5 shapes", value=many / few, unit="ratio", at_most=3))
    return found

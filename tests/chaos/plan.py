"""What is broken when: decisions drawn from the seed alone, so that the same seed makes the same decisions.

How far the processes have come at that moment is not repeatable, and what a decision meets therefore is not either.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

from prefect_slots.ledger.failpoints import Point


class Act(StrEnum):
    """What is done to a process, the server, or its counts."""

    KILL = "kill -9"
    TERM = "SIGTERM"
    INT = "SIGINT"
    STOP = "SIGSTOP"
    SERVER_TERM = "server stopped"
    SERVER_KILL = "server killed"
    SERVER_STOP = "server SIGSTOPped"
    EDIT_LIMIT = "limit edited"
    EDIT_MIRROR = "mirror edited"
    RAISE_FLEET = "fleet's limit raised"
    FOREIGN = "foreign use"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One thing to be done.

    Attributes:
        after: Seconds since the decision before was carried out.
        machine: On which machine, by its place in the list.
        which: Of the processes or limits there, as a part of 1.
        size: How much, as a part of 1.
        lasting: Seconds until it is taken back, where it is.
    """

    act: Act
    after: float
    machine: int
    which: float
    size: float
    lasting: float


def on_processes(seed: int, machines: int) -> Iterator[Decision]:
    """What is done to processes."""
    chance = random.Random(f"{seed} processes")
    acts = [Act.KILL] * 4 + [Act.TERM] * 2 + [Act.INT] * 3 + [Act.STOP] * 3
    while True:
        # Mostly shorter than others wait for a locked ledger, now and then longer; never longer than 20 s.
        lasting = chance.uniform(6, 19) if chance.random() < 0.2 else chance.uniform(0.1, 5)
        yield _decision(chance, acts, machines, after=chance.uniform(0.5, 7.0), lasting=lasting)


def on_the_server(seed: int) -> Iterator[Decision]:
    """What is done to the server."""
    chance = random.Random(f"{seed} server")
    acts = [Act.SERVER_TERM, Act.SERVER_KILL, Act.SERVER_STOP]
    while True:
        # Now and then longer than a request may take.
        lasting = chance.uniform(31, 36) if chance.random() < 0.05 else chance.uniform(0.2, 8)
        yield _decision(chance, acts, 1, after=chance.uniform(3, 18), lasting=lasting)


def on_counts(seed: int, machines: int) -> Iterator[Decision]:
    """What others do with the server's counts."""
    chance = random.Random(f"{seed} counts")
    acts = [Act.EDIT_LIMIT] * 2 + [Act.EDIT_MIRROR] * 2 + [Act.RAISE_FLEET] + [Act.FOREIGN] * 3
    while True:
        yield _decision(chance, acts, machines, after=chance.uniform(0.3, 4), lasting=chance.uniform(0.5, 8))


def fates(seed: int, machine: int, slot: int) -> Iterator[tuple[int, tuple[str, int] | None, bool]]:
    """What each process that takes a place after another is born with: its seed, where it dies, whether it is tidy."""
    chance = random.Random(f"{seed} {machine} {slot}")
    often = [Point.IN_TRANSACTION, Point.COMMITTED]
    seldom = [Point.LATCHED, Point.REPAIR_WRITTEN, Point.REPAIRED]
    for _ in count():
        point = chance.choice(list(Point))
        nth = chance.randint(1, 60 if point in often else 3 if point in seldom else 8)
        yield chance.randrange(10**9), (point.value, nth) if chance.random() < 0.5 else None, chance.random() < 0.5


def _decision(chance: random.Random, acts: list[Act], machines: int, *, after: float, lasting: float) -> Decision:
    return Decision(
        act=chance.choice(acts),
        after=after,
        machine=chance.randrange(machines),
        which=chance.random(),
        size=chance.random(),
        lasting=lasting,
    )

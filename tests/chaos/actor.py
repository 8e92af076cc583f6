"""A process of the chaos that asks, holds and gives back until it is told to stop; it may be set to die on the way.

Run as `python -m tests.chaos.actor PART`, a `Part` as JSON.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import logging
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tests.chaos.witness import ALL_GIVEN_BACK, DIED, FAILED, FLEET, OUT_OF_ORDER, TIMED_OUT, Witness
from tests.support.records import clock, held

from prefect_slots import Grant, requires
from prefect_slots.errors import OutOfOrder, SlotsError, WaitTimeout
from prefect_slots.ledger import failpoints
from prefect_slots.ledger.failpoints import Point

_DRAWN_OUTSIDE = ("gpu_mem", "mem", "cpus", "license", "scanner")


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one process is to do.

    Attributes:
        record: Where it writes down what it holds.
        stop: It ends once this file is there.
        floating: The licence of all machines.
        dies_at: A fault point, and at which time of reaching it it dies.
        tidy: Whether it gives back at SIGTERM; else it is gone at once, as programs are by default.
    """

    seed: int
    machine: str
    record: str
    stop: str
    floating: str
    dies_at: tuple[str, int] | None
    tidy: bool

    def as_json(self) -> str:
        """Return it as the program's argument."""
        return json.dumps(dataclasses.asdict(self))


class Actor:
    """The process."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._chance = random.Random(part.seed)
        self._witness = Witness(Path(part.record))
        self._stop = Path(part.stop)
        if part.dies_at is not None:
            self._point, self._left = Point(part.dies_at[0]), part.dies_at[1]
            failpoints.install(self._die)
        signal.signal(signal.SIGINT, self._interrupted)
        if part.tidy:
            signal.signal(signal.SIGTERM, self._ended)

    def _die(self, point: Point) -> None:
        if point is self._point:
            self._left -= 1
            if self._left == 0:
                self._witness.write(DIED, point.value)
                os.kill(os.getpid(), signal.SIGKILL)

    # An exception out of a signal may come between giving back and anything that would be written about it.
    def _interrupted(self, _number: int, _frame: FrameType | None) -> NoReturn:
        self._witness.write(ALL_GIVEN_BACK)
        raise KeyboardInterrupt

    def _ended(self, number: int, _frame: FrameType | None) -> NoReturn:
        self._witness.write(ALL_GIVEN_BACK)
        raise SystemExit(128 + number)

    def run(self) -> None:
        """Ask until told to stop; Ctrl-C ends what it does at the moment."""
        while not self._stop.exists():
            try:
                self._once()
            except KeyboardInterrupt:
                continue

    def _once(self) -> None:
        chance = self._chance
        timeout = chance.choice([None, None, None, 0.05, 2.0])
        try:
            asked = requires(
                **self._wants(),
                priority=chance.choice([0, 0, 5]),
                timeout=timeout,
                expected_seconds=chance.choice([None, 0.2, 5.0]),
            )
            with asked as grant, self._witness.holding(self._held(grant), grant.waited):
                self._busy()
                if chance.random() < 0.25:
                    self._nested(grant)
        except WaitTimeout:
            self._witness.write(TIMED_OUT)
        except SlotsError as error:
            self._witness.write(FAILED, type(error).__name__, str(error))
            time.sleep(0.2)

    def _nested(self, outer: Grant) -> None:
        try:
            with requires(**self._wants(), timeout=0.5) as inner:
                # What is drawn on the outer grant is recorded as the outer grant's already.
                if all(outer.amounts.get(name, 0) >= amount for name, amount in inner.amounts.items()):
                    self._busy()
                else:
                    with self._witness.holding(self._held(inner), inner.waited):
                        self._busy()
        except OutOfOrder:
            self._witness.write(OUT_OF_ORDER)
        except WaitTimeout:
            self._witness.write(TIMED_OUT)

    def _wants(self) -> dict[str, Any]:
        chance, part = self._chance, self._part
        licence = chance.choice([{part.floating: chance.choice([1, 1, 2, 3])}, {f"ansys-{part.machine}": 1}])
        choices: dict[str, Any] = {
            "gpu_mem": chance.choice([2, 8, 16, 24]),
            "mem": chance.choice([1, 4, 8]),
            "cpus": chance.choice([1, 2, 4]),
            "license": licence,
            "scanner": 1,
        }
        names = chance.sample(_DRAWN_OUTSIDE, chance.choice([1, 1, 2, 3]))
        asked = {name: choices[name] for name in names}
        return {**asked, "gpus": chance.choice([1, 1, 2])} if "gpu_mem" in asked else asked

    def _held(self, grant: Grant) -> list[tuple[str, int]]:
        floating = f"license.{self._part.floating}"
        return [(f"{FLEET if name == floating else self._part.machine}/{name}", amount) for name, amount in held(grant)]

    def _busy(self) -> None:
        """Hold for a moment, now and then for long enough that server and others break meanwhile."""
        chance = self._chance
        time.sleep(chance.uniform(3, 12) if chance.random() < 0.04 else min(2.0, chance.expovariate(8)))


def _timed(record: logging.LogRecord) -> bool:
    record.msg = f"{clock():.3f} {record.msg}"
    return True


def main() -> None:
    """Play one part."""
    faulthandler.register(signal.SIGUSR1)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("prefect_slots").addFilter(_timed)
    part = json.loads(sys.argv[1])
    dies_at = part.pop("dies_at")
    Actor(Part(**part, dies_at=tuple(dies_at) if dies_at else None)).run()


if __name__ == "__main__":
    main()

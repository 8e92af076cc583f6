"""A process that asks for random things until its time is up, and writes down itself what it holds.

Run as `python -m tests.support.stress SEED SECONDS RECORD MATLAB ANSYS`. The record is the independent witness of the
stress test: a line when something is held and a line just before it is given back, on a clock all processes share.
"""

from __future__ import annotations

import os
import random
import sys
import time
from typing import Any

from tests.support.records import clock, recorded

from prefect_slots import Grant, requires
from prefect_slots.errors import OutOfOrder, WaitTimeout


def wants(chance: random.Random, matlab: str, ansys: str) -> dict[str, Any]:
    """Return a random requirement over the five resources."""
    choices: dict[str, Any] = {
        "gpu_mem": chance.choice([2, 8, 16, 24]),
        "gpus": chance.choice([1, 1, 2]),
        "mem": chance.choice([1, 4, 8]),
        "cpus": chance.choice([1, 2]),
        "license": {chance.choice([matlab, ansys]): chance.choice([1, 2])},
        "scanner": 1,
    }
    names = chance.sample(["gpu_mem", "mem", "cpus", "license", "scanner"], chance.choice([1, 1, 2, 3]))
    asked = {name: choices[name] for name in names}
    return {**asked, "gpus": choices["gpus"]} if "gpu_mem" in asked else asked


def main() -> None:
    """Ask, hold, give back, until the time is up; print how often it was granted."""
    seed, seconds, path, matlab, ansys = sys.argv[1:6]
    chance = random.Random(int(seed))
    record = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    until = clock() + float(seconds)
    grants = 0
    while clock() < until:
        priority, timeout = chance.choice([0, 0, 5]), chance.choice([None, None, 0.05])
        try:
            asked = requires(**wants(chance, matlab, ansys), priority=priority, timeout=timeout)
            with asked as grant, recorded(record, grant):
                grants += 1
                time.sleep(chance.expovariate(80))
                if chance.random() < 0.3:
                    _nested(record, grant, chance, wants(chance, matlab, ansys))
        except WaitTimeout:
            continue
    print(grants)


def _nested(record: int, outer: Grant, chance: random.Random, asked: dict[str, Any]) -> None:
    try:
        with requires(**asked, timeout=0.5) as inner:
            # What is drawn on the outer grant is recorded as the outer grant's already.
            drawn = all(outer.amounts.get(name, 0) >= amount for name, amount in inner.amounts.items())
            if drawn:
                time.sleep(chance.expovariate(200))
            else:
                with recorded(record, inner):
                    time.sleep(chance.expovariate(200))
    except (OutOfOrder, WaitTimeout):
        return


if __name__ == "__main__":
    main()

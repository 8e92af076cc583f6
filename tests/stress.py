"""A process that asks for random things until its time is up, and writes down itself what it holds.

Run as `python -m tests.stress SEED SECONDS RECORD MATLAB ANSYS`. The record is the independent witness of the stress
test: a line when something is held and a line just before it is given back, on a clock all processes share.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from prefect_slots import Grant, requires
from prefect_slots.errors import OutOfOrder, WaitTimeout


def clock() -> float:
    """Return seconds on the clock that all records use."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def held(grant: Grant) -> list[tuple[str, int]]:
    """Return what a grant holds as `(place, amount)`; cards by UUID."""
    cards = [(device.uuid, device.memory_mib) for device in grant.devices]
    return cards + [(name, amount) for name, amount in grant.amounts.items() if name != "gpu_mem"]


@contextmanager
def recorded(record: int, grant: Grant) -> Generator[None]:
    """Write that `grant` is held, and, however its block ends, that it is about to be given back."""
    _write(record, ["+", clock(), held(grant)])
    try:
        yield
    finally:
        _write(record, ["-", clock(), held(grant)])


def _write(record: int, line: list[Any]) -> None:
    os.write(record, (json.dumps(line) + "\n").encode())


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

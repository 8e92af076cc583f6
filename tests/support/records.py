"""What holders write down of what they hold, and over-commitment by that, whatever the ledger believes.

A record is a line when something is held and a line just before it is given back, on a clock all processes share.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_slots import Grant


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


def overlaps(records: dict[Path, float], capacity: dict[str, int]) -> list[str]:
    """Return every moment at which the holders' own records add up to more than there is.

    Args:
        records: Each record with the time its process was killed, or infinity.
        capacity: What there is at each place.
    """
    events: list[tuple[float, int, str, int]] = []
    for record, killed_at in records.items():
        open_now: list[tuple[str, int]] = []
        for line in record.read_text().splitlines():
            sign, at, holdings = json.loads(line)
            for place, amount in holdings:
                events.append((at, 1 if sign == "+" else -1, place, amount))
                (open_now.append if sign == "+" else open_now.remove)((place, amount))
        events += [(killed_at, -1, place, amount) for place, amount in open_now]
    used: dict[str, int] = {}
    found: list[str] = []
    for at, sign, place, amount in sorted(events):
        used[place] = used.get(place, 0) + sign * amount
        if used[place] > capacity[place]:
            found.append(f"{place}: {used[place]} of {capacity[place]} at {at:.6f}")
    assert not any(used.values()), f"the records do not add up: {used}"
    return found

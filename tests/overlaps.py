"""Over-commitment as the holders' own records tell it, whatever the ledger believes."""

from __future__ import annotations

import json
from pathlib import Path


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

"""What others use of a cell is told by two witnesses; how much of it is blocked. Pure.

The server counts the slots that others than this ledger have taken. The device, or the licence server, shows what is
used by others than this ledger's holders. Neither covers the other:

- A seat that another machine's task holds is in both: taken on the server, checked out at the licence server. So is the
  memory of a person who calls `concurrency("gpu-mem:gpu-1")` by hand and then uses the card. Their sum would count it
  twice, and leave seats idle.
- An engineer's desktop takes a seat without taking a slot; a task elsewhere has taken a slot and starts the licensed
  program in a minute. The larger of the two would count these as one, and hand out a seat that is gone when the second
  of them comes for it.

So what is blocked is what the server counts, and what is shown beyond that: `counted + shown - explained`. What is
explained is what the server has counted all the time since long enough for it to be shown (`settled`); with a licence
server that tells hosts, no more than is shown on the machines of the fleet. A slot that was taken a moment ago explains
nothing yet, and one that was given back nothing any more: until the licence server shows that, a seat too few is free,
and a task waits that might have run; never one too many, which would make a task fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefect_slots.ledger.usage import Samples


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """What the Prefect server tells of the other machines.

    Attributes:
        counted: Seats of each fleet licence that others than this ledger hold there, as far as it could be asked.
        hosts: The other machines' host names, in lower case and without a domain; `None` where they are not known.
    """

    counted: Mapping[str, int]
    hosts: frozenset[str] | None = None


def remembered(counted: Samples, now: float, amount: int, seconds: float) -> Samples:
    """Add what the server counts now, and forget what is not needed to tell what it has counted for `seconds`."""
    samples = (*((time, each) for time, each in counted if time < now), (now, amount))
    old = [sample for sample in samples if sample[0] <= now - seconds]
    return (*old[-1:], *samples[len(old) :])


def settled(counted: Samples, since: float) -> int:
    """Return what the server has counted at every look since then; nothing before a look as old as that."""
    before = [amount for time, amount in counted if time <= since]
    return min([before[-1], *(amount for time, amount in counted if time > since)]) if before else 0


def beyond(shown: int, explained: int) -> int:
    """Return what is blocked beside what the server counts."""
    return max(0, shown - explained)

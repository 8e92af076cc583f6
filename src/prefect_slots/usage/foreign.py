"""Foreign use of a cell, from two witnesses, and the part of it that is blocked. Pure.

The Prefect server counts the slots that are taken by others than this ledger. The device or the license server shows
use by others than this ledger's holders. Neither covers the other:

- A seat of a task on another machine is in both: its slot is taken on the server, and it is checked out at the license
  server. So is the memory of a person who calls `concurrency("gpu-mem:gpu-1")` by hand and then uses the GPU. The sum
  of both would count them twice and leave seats idle.
- An engineer's desktop takes a seat without a slot; a task elsewhere has a slot and starts the licensed program in a
  minute. The larger of both would count these as one, and grant a seat that is gone when the second of them comes.

So the server's count is blocked, and use that is shown beyond it: `counted + shown - explained`. Use is explained that
the server has counted long enough for it to be shown (`settled`), and with a license server that tells hosts, no more
of it than is shown on the machines of the fleet. A slot that was taken a moment ago explains nothing yet, and a slot
that was given back explains nothing any more. Until the license server shows the change, a seat too few is free, and a
task waits that might have run; there is never a seat too many, which would make a task fail.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from prefect_slots.ledger.usage import Outside, Samples
from prefect_slots.model import Stale


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The other machines, as the Prefect server knows them.

    Attributes:
        counted: Seats of each fleet license that others than this ledger hold, of those that could be asked for.
        hosts: The other machines' host names, in lower case and without a domain; `None` if they are not known.
    """

    counted: Mapping[str, int]
    hosts: frozenset[str] | None = None


def remembered(counted: Samples, now: float, amount: int, seconds: float) -> Samples:
    """Add the server's present count if it has changed, and drop samples that no question about `seconds` needs."""
    samples = tuple((time, each) for time, each in counted if time < now)
    # An amount stands until the next one: with one more sample each second, the list would cost more than the look.
    if not samples or samples[-1][1] != amount:
        samples = (*samples, (now, amount))
    # The last of the old samples stays: it is the count at the beginning of the period.
    old = [sample for sample in samples if sample[0] <= now - seconds]
    return (*old[-1:], *samples[len(old) :])


def settled(counted: Samples, since: float) -> int:
    """Return the amount that every count since then includes; 0 before a count as old as that."""
    # A slot that was free in between may have passed to a holder that has not used it yet.
    before = [amount for time, amount in counted if time <= since]
    return min([before[-1], *(amount for time, amount in counted if time > since)]) if before else 0


def beyond(shown: int, explained: int) -> int:
    """Return the amount blocked beside the server's count."""
    return max(0, shown - explained)


def stale_of(seen: Outside, machine: str | None, label: str = "") -> Stale:
    """Return the message that nothing has told the foreign use of a cell for a while."""
    return Stale(
        machine=machine or "",
        resource=seen.cell.resource,
        label=label,
        seen_at=seen.seen_at,
        misses=seen.misses,
        why=seen.why,
    )

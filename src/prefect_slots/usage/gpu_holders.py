"""Who holds which card by the ledger, and which processes are theirs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from prefect_slots.detect.gpu.drm_usage import query_drm_use
from prefect_slots.detect.gpu.nvml import Failure
from prefect_slots.detect.gpu.usage import UseReading, query_use
from prefect_slots.ledger import queries
from prefect_slots.ledger.queries import Part
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.model.book import TOKEN
from prefect_slots.model.resource import GPU_MEM
from prefect_slots.system.container import Surroundings, query_surroundings
from prefect_slots.system.processes import ProcessInfo, descendants, query_lineage, query_variable
from prefect_slots.system.sysfs import ROOT
from prefect_slots.usage.attribution import Belonging, grants_named

_SETTLING_SECONDS: Final = 2.0
"""How long after the end of a grant the memory that its processes still have is on its way back."""


@dataclass(frozen=True, kw_only=True)
class CardsSeen:
    """What was read of the cards and of the processes on them.

    Attributes:
        lineage: Those processes and their ancestors.
        tokens: The grant that a process was started under, as its environment says, by process id.
        at: When reading began, a Unix time.
    """

    reading: UseReading
    lineage: Mapping[int, ProcessInfo]
    tokens: Mapping[int, str]
    around: Surroundings
    at: float


def read_cards(now: float, keys: Collection[str], root: Path = ROOT) -> CardsSeen:
    """Ask NVML, and the kernel of other cards; look at the processes that they name. May take as long as a driver does.

    Args:
        now: A Unix time.
        keys: Of the cards that matter: other makers' are not looked at for nothing.
        root: The folder that stands for `/`.
    """
    told = query_use()
    reading = replace(told, devices=(*told.devices, *query_drm_use(root, keys)))
    pids = {pid for device in reading.devices for pid in device.processes or ()}
    return CardsSeen(
        reading=reading,
        lineage=query_lineage(pids),
        tokens=query_variable(TOKEN, pids),
        around=query_surroundings(root, {}),
        at=now,
    )


def no_cards(now: float, why: str) -> CardsSeen:
    """Return what stands for a look that does not end."""
    reading = UseReading(failure=Failure(code=None, words=why))
    return CardsSeen(reading=reading, lineage={}, tokens={}, around=Surroundings(), at=now)


class Ours:
    """Which of the processes that were seen are ours."""

    def __init__(self, tx: Transaction, seen: CardsSeen, parts: Iterable[Part]) -> None:
        self._seen = seen
        self._named = grants_named(seen.tokens, tx.meta("ledger_id") or "")
        self._pids: dict[int, set[int]] = {}
        self._grants: dict[int, set[str]] = {}
        for part in parts:
            # What the owner of a task process has on a card itself is not reserved by what that was granted.
            for pid in [pid for pid, _ in part.processes] or [part.pid]:
                self._add(part.cell.number, pid, part.grant)
        # Between the look and this transaction, and a little before, grants have ended.
        for span in queries.history(tx, GPU_MEM, seen.at - _SETTLING_SECONDS):
            self._add(span.number, span.pid, span.grant)
        self._members = queries.owner_pids(tx)

    def _add(self, number: int, pid: int | None, grant: str) -> None:
        # Zero is whom the first process descends from, and with it all others.
        if pid:
            self._pids.setdefault(number, set()).add(pid)
        self._grants.setdefault(number, set()).add(grant)

    def on(self, number: int) -> frozenset[int]:
        """Return the processes whose memory on that card is what grants have reserved there.

        A process that outlived its parent is no longer a descendant of anybody; its environment still names its grant.
        """
        grants = self._grants.get(number, set())
        named = {pid for pid, grant in self._named.items() if grant in grants}
        return descendants({*self._pids.get(number, ()), *named}, self._seen.lineage)

    def belonging(self, number: int, parts: Iterable[Part]) -> Belonging:
        """Return to which of the grants on that card a process belongs."""
        parents = {pid: process.parent for pid, process in self._seen.lineage.items()}
        return Belonging((part for part in parts if part.cell.number == number), self._named, parents)

    def members(self) -> frozenset[int]:
        """Return the processes of everybody who takes part in this ledger, whatever they hold."""
        return descendants(self._members, self._seen.lineage)

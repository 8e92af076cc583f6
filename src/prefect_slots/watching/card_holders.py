"""Who holds which card by the ledger, and which processes are theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prefect_slots.detect.host import ROOT
from prefect_slots.detect.surroundings import Surroundings, query_surroundings
from prefect_slots.detect.use import Process, UseReading, family, query_lineage, query_use, query_variable
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.model.book import TOKEN
from prefect_slots.model.resource import GPU_MEM

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
    lineage: Mapping[int, Process]
    tokens: Mapping[int, str]
    around: Surroundings
    at: float


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a grant holds of one card.

    Attributes:
        source: The grant that it draws on, if any: then it is part of what that one holds.
        pid: Of its owner; `None` if that has died and draws of others go on.
        command: The one process that the owner runs under its grants, and when that started.
    """

    number: int
    grant: str
    source: str | None
    label: str
    declared: int
    pid: int | None
    command: tuple[int, float] | None


def read_cards(now: float, root: Path = ROOT) -> CardsSeen:
    """Ask NVML, and look at the processes that it names. May take as long as the driver does."""
    reading = query_use()
    pids = {pid for device in reading.devices for pid in device.processes or ()}
    return CardsSeen(
        reading=reading,
        lineage=query_lineage(pids),
        tokens=query_variable(TOKEN, pids),
        around=query_surroundings(root, {}),
        at=now,
    )


def read_parts(tx: Transaction) -> tuple[Part, ...]:
    """Return what grants hold of the cards now."""
    return tuple(
        Part(
            number=row[0],
            grant=row[1],
            source=row[2],
            label=row[3],
            declared=row[4],
            pid=row[5],
            command=(row[6], row[7]) if row[6] is not None else None,
        )
        for row in tx.all(
            "SELECT c.number, h.id, h.source, h.label, c.amount, o.pid, o.command, o.command_started "
            "FROM holding c JOIN held h ON h.id=c.held LEFT JOIN owner o ON o.id=h.owner WHERE c.resource=?",
            GPU_MEM,
        )
    )


class Ours:
    """Which of the processes that were seen are ours."""

    def __init__(self, tx: Transaction, seen: CardsSeen, parts: Iterable[Part]) -> None:
        self._seen = seen
        self._ledger = tx.meta("ledger_id") or ""
        self._pids: dict[int, set[int]] = {}
        self._grants: dict[int, set[str]] = {}
        for part in parts:
            self._add(part.number, part.pid, part.grant)
        # Between the look and this transaction, and a little before, grants have ended.
        for number, grant, pid in tx.all(
            "SELECT number, held, pid FROM history WHERE resource=? AND ended_at>?",
            *(GPU_MEM, seen.at - _SETTLING_SECONDS),
        ):
            self._add(number, pid, grant)
        self._members = {row[0] for row in tx.all("SELECT pid FROM owner")}

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
        named = {pid for pid in self._seen.tokens if self.grant_of(pid) in grants}
        return family({*self._pids.get(number, ()), *named}, self._seen.lineage)

    def grant_of(self, pid: int) -> str:
        """Return the grant of this ledger that a process was started under; empty if it was not."""
        ledger, _, grant = self._seen.tokens.get(pid, "").partition(":")
        return grant if ledger == self._ledger else ""

    def members(self) -> frozenset[int]:
        """Return the processes of everybody who takes part in this ledger, whatever they hold."""
        return family(self._members, self._seen.lineage)

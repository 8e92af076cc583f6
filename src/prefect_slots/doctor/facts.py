"""Facts that are looked at to tell what is wrong with a machine.

What cannot be looked at is `None`, or a finding in `troubles`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prefect_slots.leases.counts import Count
from prefect_slots.model.finding import Finding


@dataclass(frozen=True, kw_only=True)
class Versions:
    """Versions installed here, and the server's; `server_is_here` means that the URL names this machine."""

    ours: str
    client: str | None
    fastapi: str | None
    server: str | None = None
    server_is_here: bool = False


@dataclass(frozen=True, kw_only=True)
class Names:
    """What this machine is called: by the settings, by `WORKER_ID`, and in its ledger."""

    setting: str | None
    worker_id: str | None
    registered: str | None


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The state folder; `ballast` is `None` where there is no ledger yet."""

    path: str
    file_system: str | None
    free_bytes: int
    ballast: bool | None


@dataclass(frozen=True, kw_only=True)
class OwnerFacts:
    """A process in the ledger, and how much is its."""

    pid: int
    program: str
    dead: bool
    lock_file_missing: bool
    grants: int
    tickets: int
    leases: int


@dataclass(frozen=True, kw_only=True)
class StaleFacts:
    """What others use of a cell, of which nobody has told for long enough to be warned of.

    Attributes:
        resource: `"license.ansys"`, or `"gpu_mem"` with the card's `label`.
        used: What was told last, for people; empty if nothing ever was.
        age: Seconds since then.
        misses: How often in a row nobody has answered.
        why: In the words of whoever was asked.
    """

    resource: str
    label: str
    used: str
    age: float
    misses: int
    why: str


@dataclass(frozen=True, kw_only=True)
class LedgerFacts:
    """What the ledger says.

    Attributes:
        machine: `None` before the first registration.
        stranded: Who waits for what cannot be given while others use so much.
        unbacked: Grants that go on although the server does not count all of what they hold.
        changed: Resources that are registered otherwise than they are detected and declared now.
        stale: Numbers of others' use that are old.
    """

    id: str
    machine: str | None
    owners: tuple[OwnerFacts, ...] = ()
    stranded: tuple[str, ...] = ()
    unbacked: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    stale: tuple[StaleFacts, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """The server that takes part; `lease_storage` is `None` where it does not tell."""

    url: str
    lease_storage: str | None
    database: str


@dataclass(frozen=True, kw_only=True)
class LimitFacts(Count):
    """A limit of this machine on the server, with its counts.

    Attributes:
        action: What a registration would do to it: `create`, `change`, `unchanged`, `orphaned` or `conflict`.
        old: Its number on the server; `None` where it is missing.
        new: Its number as it should be; `None` where nothing here needs it.
        problem: What is in the way of a registration, with the remedy.
    """

    name: str
    action: str
    old: int | None
    new: int | None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class MirrorFacts:
    """Another ledger's mirror of one of this machine's limits; `holders` are the live leases that it lists."""

    name: str
    ledger: str
    active: int
    holders: int
    former: bool


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that was looked at.

    Attributes:
        settings: The file that was read, or `defaults`; `None` if it is wrong.
        mode: Who decides about requests.
        claimed: Whether this ledger owns the machine's name on the server; `None` where that was not asked.
        cards: Product names of the cards, as registered or detected.
        troubles: What could not be looked at, and what the survey remarked.
    """

    versions: Versions
    settings: str | None = None
    mode: Literal["off", "local", "both"] | None = None
    names: Names | None = None
    folder: Folder | None = None
    ledger: LedgerFacts | None = None
    server: ServerFacts | None = None
    claimed: bool | None = None
    limits: tuple[LimitFacts, ...] | None = None
    mirrors: tuple[MirrorFacts, ...] = ()
    cards: tuple[str, ...] = ()
    cuda_device_order: str | None = None
    troubles: tuple[Finding, ...] = ()

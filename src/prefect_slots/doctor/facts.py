"""Facts about a machine, its ledger and its server, for the doctor's checks.

A fact that could not be read is `None`, with a finding in `troubles` that says why.
"""

from dataclasses import dataclass
from typing import Literal

from prefect_slots.leases.reconcile import Count
from prefect_slots.ledger.queries import Enrolled
from prefect_slots.limits.client import ServerInfo
from prefect_slots.model import Finding


@dataclass(frozen=True, kw_only=True)
class Versions:
    """Versions installed here, and the server's; `server_is_here` if the URL names this machine."""

    ours: str
    client: str | None
    fastapi: str | None
    # Known only if the server answers.
    server: str | None = None
    server_is_here: bool = False


@dataclass(frozen=True, kw_only=True)
class Names:
    """This machine's name in the settings, in `WORKER_ID`, and in its ledger."""

    setting: str | None
    worker_id: str | None
    registered: str | None


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The state folder; `ballast` is `None` if there is no ledger yet."""

    path: str
    file_system: str | None
    free_bytes: int
    ballast: bool | None


@dataclass(frozen=True, kw_only=True)
class OwnerFacts:
    """An owner's row in the ledger, and the proof of its life.

    Attributes:
        elsewhere: Its pid namespace is another one: without its lock file nothing here can prove its end.
    """

    row: Enrolled
    dead: bool
    lock_file_missing: bool
    elsewhere: bool = False


@dataclass(frozen=True, kw_only=True)
class StaleFacts:
    """Foreign use of a cell whose measurement is out of date.

    Attributes:
        resource: `"license.ansys"`, or `"gpu_mem"` with the GPU's `label`.
        used: The last measurement, for people; empty if there was none.
        age: Seconds since then.
        misses: Number of failed measurements in a row.
        why: Reason of the last failure, in the words of the server or driver.
    """

    resource: str
    label: str
    used: str
    age: float
    misses: int
    why: str


@dataclass(frozen=True, kw_only=True)
class LedgerFacts:
    """Contents of the ledger.

    Attributes:
        machine: `None` before the first registration.
        stranded: Waiting requests that cannot be granted while foreign use is as high as now.
        unbacked: Grants that go on although the server does not count all of their slots.
        changed: Resources that are registered otherwise than they are detected and declared now.
        stale: Foreign use whose measurement is out of date.
    """

    id: str
    machine: str | None
    owners: tuple[OwnerFacts, ...] = ()
    stranded: tuple[str, ...] = ()
    unbacked: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    stale: tuple[StaleFacts, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LimitFacts(Count):
    """A limit of this machine on the server, with its counts.

    Attributes:
        action: The change that a registration would make, or the reason why it makes none; see `limits.plan.Action`.
        old: Number on the server; `None` if the limit is missing.
        new: Number that is right; `None` if nothing here needs the limit.
        problem: Obstacle to a registration, with its remedy.
    """

    name: str
    action: str
    old: int | None
    new: int | None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class MirrorFacts:
    """Another ledger's mirror of one of this machine's limits; `holders` is the number of its live leases."""

    name: str
    active: int
    holders: int
    former: bool


@dataclass(frozen=True, kw_only=True)
class SharedGpu:
    """A GPU of this machine that another ledger claims, or was refused because this one has it.

    Attributes:
        machine: The other ledger's machine.
        refused: The other ledger was refused.
    """

    gpu: str
    machine: str
    host: str
    ledger: str
    refused: bool


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All facts of one examination.

    Attributes:
        settings: The file that was read, or `defaults`; `None` if it is wrong.
        mode: Arbiters of a request: the ledger and the server, the ledger alone, or none.
        claimed: This ledger owns the machine's name on the server; `None` if the server was not asked.
        shared: GPUs of this machine that other ledgers claim or wanted.
        gone: Machines that have given no sign of life for longer than `forget_after`.
        gpus: Product names of the detected GPUs.
        troubles: Findings about facts that could not be read, and the findings of detection.
    """

    versions: Versions
    settings: str | None = None
    mode: Literal["off", "local", "both"] | None = None
    names: Names | None = None
    folder: Folder | None = None
    ledger: LedgerFacts | None = None
    server: ServerInfo | None = None
    claimed: bool | None = None
    limits: tuple[LimitFacts, ...] | None = None
    mirrors: tuple[MirrorFacts, ...] = ()
    shared: tuple[SharedGpu, ...] = ()
    gone: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    cuda_device_order: str | None = None
    troubles: tuple[Finding, ...] = ()

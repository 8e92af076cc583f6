"""What a person wrote about a machine: how to detect it, and what detection cannot know.

Plain values, checked and converted to integer units by `settings`; `detect` reads them. Nothing here reads files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prefect_slots.model.resource import Scope, license_resource


@dataclass(frozen=True, kw_only=True)
class DeclaredCard:
    """One `[[gpus.card]]`: a card for demonstrations, or where detection cannot see it."""

    uuid: str
    memory_mib: int
    name: str = "declared card"


@dataclass(frozen=True, kw_only=True)
class GpuRules:
    """The `[gpus]` table.

    Attributes:
        exclude: UUID prefixes.
        ignore: Names of programs and process ids whose memory is not counted as others' use.
        headroom_mib: Kept free on each detected card.
    """

    detect: bool = True
    exclude: tuple[str, ...] = ()
    ignore: tuple[str | int, ...] = ()
    headroom_mib: int = 0
    cards: tuple[DeclaredCard, ...] = ()

    def excludes(self, uuid: str) -> bool:
        """Say whether a prefix in `exclude` is the beginning of `uuid`, in upper or lower case."""
        return any(uuid.lower().startswith(prefix.lower()) for prefix in self.exclude)


@dataclass(frozen=True, kw_only=True)
class HostRules:
    """The `[host]` table: `None` means as detected."""

    cpus: int | None = None
    mem_mib: int | None = None
    mem_headroom_mib: int = 0


@dataclass(frozen=True, kw_only=True)
class DeclaredLicense:
    """One `[license.<feature>]` with a number of seats."""

    feature: str
    seats: int
    scope: Scope = Scope.FLEET


@dataclass(frozen=True, kw_only=True)
class LicenseServer:
    """One `[license.<name>]` whose seats a licence server counts.

    Attributes:
        vendor: Whose server it is: `"flexnet"`, `"rlm"` and so on.
        server: `port@host`, several of them with commas between.
        command: The vendor's program and what stands before its own arguments; empty for the vendor's name of it.
        features: The names that tasks ask for, each with what the server calls it.
        headroom: Seats of each that are left to people who start the program by hand.
        poll_seconds: How long an answer stays true enough.
        timeout: Seconds after which the server is given up.
        grace_seconds: How long it takes until the server shows what a task was granted, or gave back.
        scope: Who shares the seats; `None` leaves it to what the server tells.
    """

    vendor: str
    server: str
    command: tuple[str, ...] = ()
    features: tuple[tuple[str, str], ...] = ()
    headroom: int = 0
    poll_seconds: float = 60
    timeout: float = 10
    grace_seconds: float = 60
    scope: Scope | None = None


@dataclass(frozen=True, kw_only=True)
class DeclaredResource:
    """One `[resources.<name>]`: `capacity` of `unit` on each of `cells` cells."""

    name: str
    capacity: int
    cells: int = 1
    unit: str = "units"
    scope: Scope = Scope.WORKER


@dataclass(frozen=True, kw_only=True)
class ScratchSpace:
    """One `[resources.<name>]` with `disk`: a folder whose free space is the resource, in GiB.

    Attributes:
        capacity_gib: A number that stands whatever is free; `None` means what is free when the machine is looked at.
    """

    name: str
    folder: str
    headroom_gib: int = 0
    capacity_gib: int | None = None


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """One `[resources.<name>]` with `devices`: patterns of stable names under `/dev`, a cell for each that matches."""

    name: str
    patterns: tuple[str, ...]
    unit: str = "device"


@dataclass(frozen=True, kw_only=True)
class EncoderSessions:
    """One `[resources.<name>]` with `encoder_sessions`: the most that this machine's driver allows."""

    name: str
    most: int
    source: str = ""


Watched = ScratchSpace | Instruments | EncoderSessions
"""A resource that is declared by where to look for it."""


@dataclass(frozen=True, kw_only=True)
class DetectorRules:
    """One `[detectors.<name>]`: whether that detector runs, and what it is told."""

    name: str
    enabled: bool = True
    options: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, kw_only=True)
class Declarations:
    """Everything a configuration file says about the machine, and the file it came from (for messages)."""

    gpus: GpuRules = GpuRules()
    host: HostRules = HostRules()
    licenses: tuple[DeclaredLicense, ...] = ()
    license_servers: tuple[LicenseServer, ...] = ()
    resources: tuple[DeclaredResource, ...] = ()
    watched: tuple[Watched, ...] = ()
    detectors: tuple[DetectorRules, ...] = ()
    source: str = "defaults"

    @property
    def looked_for(self) -> frozenset[str]:
        """The resources that the configuration does not count itself: it says where to look for them."""
        seats = (license_resource(name) for table in self.license_servers for name, _ in table.features)
        return frozenset((*seats, *(watched.name for watched in self.watched)))

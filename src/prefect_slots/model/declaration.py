"""Declarations: a person's statements about a machine, as rules for detection and as resources of their own.

Plain values, checked and converted to integer units by `settings`, and read by `detect`. Nothing here reads files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prefect_slots.model.resource import Scope, license_resource


@dataclass(frozen=True, kw_only=True)
class DeclaredCard:
    """One `[[gpus.card]]`: a GPU for demonstrations, or one that detection cannot see."""

    uuid: str
    memory_mib: int
    name: str = "declared card"
    compute_capability: str = ""


@dataclass(frozen=True, kw_only=True)
class GpuRules:
    """The `[gpus]` table.

    Attributes:
        exclude: UUID prefixes.
        ignore: Names of programs, and process ids; their memory is not counted as foreign use.
        headroom_mib: Memory kept free on each detected GPU, in MiB.
        integrated: Graphics of a processor are offered too.
        display_mib: Memory in MiB up to which programs that draw leave a GPU to a request for a whole one.
    """

    detect: bool = True
    integrated: bool = False
    display_mib: int = 1024
    exclude: tuple[str, ...] = ()
    ignore: tuple[str | int, ...] = ()
    headroom_mib: int = 0
    cards: tuple[DeclaredCard, ...] = ()

    def excludes(self, uuid: str) -> bool:
        """Return whether `uuid` begins with a prefix in `exclude`, in upper or lower case."""
        return any(uuid.lower().startswith(prefix.lower()) for prefix in self.exclude)


@dataclass(frozen=True, kw_only=True)
class HostRules:
    """The `[host]` table; `None` means the detected number."""

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
    """One `[license.<name>]` of seats that a license server counts.

    Attributes:
        vendor: Vendor of the server: `"flexnet"`, `"rlm"` and so on.
        server: `port@host`, several of them separated by commas.
        command: The vendor's program, with leading arguments; empty for its usual name.
        features: Names for tasks, each with the server's name of the feature.
        headroom: Seats of each feature left to use by hand.
        poll_seconds: Age up to which an answer is used again, in seconds.
        timeout: Time limit of a question to the server, in seconds.
        grace_seconds: Delay in seconds until the server shows a seat that a task was granted, or gave back.
        scope: Scope of the seats; `None` leaves it to the server's answer.
        reserved_for: Names in the server's reservations that mean us; `None` if nobody said.
        reserved_here: Number of each feature's seats that are ours, of those that the server reserves without a name;
            `None` if nobody said.
        options_file: Path of the server's options file, which names the members of groups; empty for none.
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
    reserved_for: tuple[str, ...] | None = None
    reserved_here: int | None = None
    options_file: str = ""


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
    """One `[resources.<name>]` with `disk`: the free space of a folder, in GiB.

    Attributes:
        headroom_gib: Space kept free.
        capacity_gib: Fixed capacity; `None` means the free space at each survey.
    """

    name: str
    folder: str
    headroom_gib: int = 0
    capacity_gib: int | None = None


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """One `[resources.<name>]` with `devices`: patterns of stable names under `/dev`, with a cell for each match."""

    name: str
    patterns: tuple[str, ...]
    unit: str = "device"


@dataclass(frozen=True, kw_only=True)
class EncoderSessions:
    """One `[resources.<name>]` with `encoder_sessions`: the most that this machine's driver allows."""

    name: str
    most: int
    source: str = ""


# Resources that are declared by a place to look at; their capacity is found there at each survey.
Watched = ScratchSpace | Instruments | EncoderSessions


@dataclass(frozen=True, kw_only=True)
class DetectorRules:
    """One `[detectors.<name>]`: a detector's switch and its options."""

    name: str
    enabled: bool = True
    options: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, kw_only=True)
class Declarations:
    """All declarations of a configuration file; `source` names the file in messages."""

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
        """The names of resources that are counted at each survey: seats of license servers, and watched resources."""
        seats = (license_resource(name) for table in self.license_servers for name, _ in table.features)
        return frozenset((*seats, *(watched.name for watched in self.watched)))

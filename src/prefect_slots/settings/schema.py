"""The declared settings: each key of the configuration file with its type, its check, its default and its meaning.

One frozen dataclass per table, standard library only, so that a command starts without pydantic: `convert` reads valid
values by these declarations, `mistakes` derives the pydantic schema from them and words the mistakes. An annotation
`Annotated[type, check, ...]` names functions that return the checked value or raise `ValueError`; `Plain(read)` stands
in place of the type's own check.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, cast

from prefect_slots.model.amount import CORES, MAX_AMOUNT, SEATS, count_asked, memory_available, memory_kept
from prefect_slots.model.declaration import Declarations
from prefect_slots.model.resource import sanitise_machine_name

ENV_PREFIX = "PREFECT_SLOTS_"
CONFIG_VARIABLE = "PREFECT_SLOTS_CONFIG"
WORKER_ID = "WORKER_ID"

# A host goes into a vendor's command line, where a word that begins with a dash would be an option.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*|\[?[0-9A-Fa-f:]+\]?")
# `CUDA_VISIBLE_DEVICES` separates identities by commas.
_IDENTITY = re.compile(r"[A-Za-z0-9._:/-]+")
_PARTITION = re.compile(r"[A-Za-z0-9_-]{1,40}")
# Names that the kernel numbers in the order in which devices are plugged in.
_UNSTABLE = re.compile(r"/(tty(USB|ACM|S)|video|usbtmc|hidraw)[0-9*?\[][^/]*$")


def _machine_name(value: str) -> str:
    sanitise_machine_name(value)
    return value


def _partition(value: str) -> str:
    if not _PARTITION.fullmatch(value):
        raise ValueError(f"'{value}' is to be part of names: write letters, digits, '_' or '-'")
    return value


def _state_dir(value: object) -> Path:
    if not isinstance(value, (str, Path)):
        raise ValueError(f"a folder is needed, not {type(value).__name__}")
    if "\0" in str(value):
        raise ValueError("no folder has a NUL character in its name")
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    if not path.is_absolute():
        raise ValueError(
            f"'{value}' depends on where a process starts, so two processes would keep two books of one machine; "
            "write an absolute path"
        )
    return path


def _auto_or(read: Callable[[object], int], value: object) -> int | None:
    """Return `None` for `"auto"` (as detected), else `value` read by `read`."""
    return None if value == "auto" else read(value)


def _identity(value: str) -> str:
    if not _IDENTITY.fullmatch(value):
        raise ValueError(f"'{value}' is no device identity; write one such as 'GPU-demo-0'")
    return value


def _prefix(value: str) -> str:
    if not value.strip():
        raise ValueError("an empty prefix would exclude every card; to use no card, write detect = false")
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError(f"'{value}' depends on where a process starts; write an absolute path")
    if "\0" in value:
        raise ValueError("no folder has a NUL character in its name")
    return str(PurePosixPath(value))


def _stable_name(value: str) -> str:
    # A pattern in a folder's name would make detection search all of /dev.
    path = PurePosixPath(value)
    below = path.parts[:2] == ("/", "dev") and len(path.parts) > 2 and ".." not in path.parts
    if not below or any(sign in str(path.parent) for sign in "*?["):
        raise ValueError(f"'{value}' is no name under /dev; write one such as '/dev/serial/by-id/usb-FTDI_*'")
    if _UNSTABLE.search(value):
        raise ValueError(
            f"'{value}' names whatever is plugged in first; write its name under /dev/serial/by-id, which stays"
        )
    return value


def _license_server(value: str) -> str:
    for address in value.split(","):
        port, at, host = address.partition("@")
        if not (at and port.isascii() and port.isdigit() and 0 < int(port) < 65536 and _HOST.fullmatch(host)):
            raise ValueError("a licence server is written port@host, a group of three with commas between")
    return value


def _command(value: object) -> tuple[str, ...]:
    words = cast("list[object]", [value] if isinstance(value, str) else value if isinstance(value, list) else [])
    command = tuple(word for word in words if isinstance(word, str) and word and "\0" not in word)
    if not command or len(command) < len(words):
        raise ValueError("the path of a program is needed, or a list of a program and its first arguments")
    return command


def _features(value: object) -> tuple[tuple[str, str], ...]:
    """Return the names that tasks ask for, each with the server's name."""
    table = {str(name): name for name in cast("list[object]", value)} if isinstance(value, list) else value
    if not isinstance(table, dict) or not table:
        raise ValueError("a list of features is needed, or a table of the names that tasks ask for")
    pairs = tuple(cast("dict[str, object]", table).items())
    if not all(isinstance(feature, str) and feature for _, feature in pairs):
        raise ValueError("each feature is text in quotes, as the server calls it")
    return tuple(sorted((name, str(feature)) for name, feature in pairs))


# Marks the field of a table that holds all keys without a declaration of their own.
REST = "rest"


@dataclass(frozen=True)
class Plain:
    """A check that replaces the check of the annotated type: `read` takes any value of the file."""

    read: Callable[[object], Any]


@dataclass(frozen=True)
class Between:
    """A check of a number; both ends are allowed."""

    least: float
    most: float

    def __call__(self, number: float) -> float:
        """Return `number`.

        Raises:
            ValueError: if it is not finite, or out of the range.
        """
        if not math.isfinite(number):
            raise ValueError("a finite number is needed")
        if number < self.least:
            raise ValueError(f"should be greater than or equal to {self.least}")
        if number > self.most:
            raise ValueError(f"should be less than or equal to {self.most}")
        return number


def _filled(value: Any) -> Any:
    if not value:
        raise ValueError("must not be empty")
    return value


def _count(unit: str) -> Plain:
    return Plain(partial(count_asked, unit=unit))


# An empty text is a forgotten one.
_Text = Annotated[str, _filled]
# A whole day: a longer period could be meant, but is more likely a mistake of the unit.
_DAY = 86400
_DECADE_DAYS = 3653


@dataclass(frozen=True, kw_only=True)
class SettingsTable:
    """The `[settings]` table; each key is also the variable `PREFECT_SLOTS_<KEY>`.

    Attributes:
        worker: This machine's name in limit names, as written; `None` leaves it to `WORKER_ID` or the host name.
        state_dir: Absolute folder of the ledger; `None` leaves the choice to the ledger.
        trust_file_system: A type of file system that counts as local for `state_dir`, as `doctor` names it, such as
            `virtiofs`. Where its locks or shared memory fail, the ledger is corrupted or GPUs are granted twice.
        partition: Name of this part of a machine that is split between several ledgers on purpose; the default machine
            name and state folder end in it. The GPUs of the parts must be disjoint, by `exclude`.
        exclusive: Refusal to work beside another ledger of this host that offers the same GPUs; else a warning.
        meeting_dir: Folder that all users of this host share, in which ledgers find each other; `None` is `/run/lock`,
            or `/var/tmp` where that is not writable for all.
        coordination: Arbiters of a request: the ledger and the Prefect server (`both`), the ledger alone (`local`), or
            none (`off`, for unit tests); `auto` is `both` where a server is configured.
        auto_register: Registration at first use, without `prefect-slots register`.
        max_overtakes: Number of later tickets that may pass one that does not fit; 0 is strict order.
        when_server_is_away: Treatment of requests for this machine's own resources while the Prefect server does not
            answer; a request for a resource of the fleet always waits.
        on_lease_lost: Treatment of a task whose slots were, for a while, free for others to take.
        forget_after: Days without a sign of life after which `register --prune` removes another machine.
        refresh_seconds: Seconds between two detections.
        detect_seconds: Time limit of a detector in seconds; after it the detector's resources are unknown.
        use_seconds: Seconds between two measurements of foreign use.
        hold_seconds: Seconds for which the highest foreign use of a GPU stays reserved.
        stale_after: Number of failed measurements in a row after which foreign use is called stale.
        enforce: Treatment of the command of a `prefect-slots run`, or of a pool's task, that uses more memory than it
            declared.
        show_holders: Names in the answer of `detect --holders`: none, the hosts of outside seats, or their users too.
    """

    worker: Annotated[str, _machine_name] | None = None
    state_dir: Annotated[Path | None, Plain(_state_dir)] = None
    trust_file_system: _Text | None = None
    partition: Annotated[str, _partition] | None = None
    exclusive: bool = False
    meeting_dir: Annotated[Path | None, Plain(_state_dir)] = None
    coordination: Literal["auto", "both", "local", "off"] = "auto"
    auto_register: bool = False
    max_overtakes: Annotated[int, Between(0, MAX_AMOUNT)] = 20
    when_server_is_away: Literal["continue", "wait", "fail"] = "continue"
    on_lease_lost: Literal["keep", "fail"] = "keep"
    forget_after: Annotated[float, Between(0, _DECADE_DAYS)] = 30
    refresh_seconds: Annotated[float, Between(1, _DAY)] = 30
    detect_seconds: Annotated[float, Between(1, 600)] = 20
    use_seconds: Annotated[float, Between(0.2, _DAY)] = 5
    hold_seconds: Annotated[float, Between(0, _DAY)] = 30
    stale_after: Annotated[int, Between(1, MAX_AMOUNT)] = 3
    enforce: Literal["warn", "kill"] = "warn"
    show_holders: Literal["off", "hosts", "users"] = "off"


@dataclass(frozen=True, kw_only=True)
class Settings(SettingsTable):
    """Settings of this process, checked: the keys of `[settings]` and the declarations of the other tables.

    Made by hand it holds the defaults; see `load_settings`.

    Attributes:
        source: Path of the file that was read, or `"defaults"`.
        digest: Digest of the file's content; empty without a file.
        named: The file was named by an option or a variable, and not found by its place.
        declarations: Rules of detection, declared licenses and resources.
    """

    source: str = "defaults"
    digest: str = field(default="", compare=False)
    named: bool = field(default=False, compare=False)
    declarations: Declarations = field(default_factory=Declarations)


@dataclass(frozen=True, kw_only=True)
class GpuTable:
    """One `[[gpus.card]]`: a declared GPU."""

    uuid: Annotated[str, _identity]
    memory: Annotated[int, Plain(memory_available)]
    name: str = "declared card"
    compute_capability: str = ""


@dataclass(frozen=True, kw_only=True)
class GpusTable:
    """The `[gpus]` table.

    Attributes:
        integrated: Graphics of a processor are offered too.
        display: MiB up to which programs that draw leave a GPU to a request for a whole one.
        exclude: Prefixes of UUIDs.
        ignore: Names of programs and process ids whose memory does not count as foreign use.
        headroom: MiB kept free on each detected GPU.
    """

    detect: bool = True
    integrated: bool = False
    display: Annotated[int, Plain(memory_kept)] = 1024
    exclude: list[Annotated[str, _prefix]] = field(default_factory=list[str])
    ignore: list[_Text | Annotated[int, Between(1, math.inf)]] = field(default_factory=list[str | int])
    headroom: Annotated[int, Plain(memory_kept)] = 0
    card: list[GpuTable] = field(default_factory=list[GpuTable])


@dataclass(frozen=True, kw_only=True)
class HostTable:
    """The `[host]` table; `None` means as detected, written `"auto"`."""

    cpus: Annotated[int | None, Plain(partial(_auto_or, partial(count_asked, unit=CORES)))] = None
    mem: Annotated[int | None, Plain(partial(_auto_or, memory_available))] = None
    mem_headroom: Annotated[int, Plain(memory_kept)] = 0


@dataclass(frozen=True, kw_only=True)
class LicenseTable:
    """One `[license.<name>]`: either `seats`, or the `type` and `server` that count them.

    Attributes:
        command: The vendor's program; a list if words stand before its own arguments.
        feature: The server's name of this license; the table's own name by default.
        features: Several features of one server: the names that tasks ask for, each with the server's name.
        headroom: Seats of each feature left to people who start the program by hand.
        poll_seconds: Longest age of an answer in seconds.
        timeout: Time limit of a question in seconds.
        grace_seconds: Seconds until the server shows a seat that a task was granted, or gave back.
        reserved_for: Names in the server's reservations, such as groups, that mean this machine or its user.
        reserved_here: Number of the seats reserved for this machine, where the server does not say for whom.
        options_file: The server's options file, which says whom its groups name.
    """

    seats: Annotated[int | None, _count(SEATS)] = None
    type: Literal["flexnet", "rlm", "lmx", "lsdyna", "dsls", "olicense", "sentinel"] | None = None
    server: Annotated[str, _license_server] | None = None
    command: Annotated[tuple[str, ...] | None, Plain(_command)] = None
    feature: _Text | None = None
    features: Annotated[tuple[tuple[str, str], ...] | None, Plain(_features)] = None
    headroom: Annotated[int, Between(0, MAX_AMOUNT)] | None = None
    poll_seconds: Annotated[float, Between(30, _DAY)] | None = None
    timeout: Annotated[float, Between(1, 300)] | None = None
    grace_seconds: Annotated[float, Between(0, _DAY)] | None = None
    reserved_for: list[_Text] | None = None
    reserved_here: Annotated[int, Between(0, MAX_AMOUNT)] | None = None
    options_file: Annotated[str, _absolute] | None = None
    scope: Literal["fleet", "worker"] | None = None

    def named_features(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return the names that tasks ask for, each with the server's name; `name` is the table's own."""
        return self.features or ((name, self.feature or name),)


@dataclass(frozen=True, kw_only=True)
class ResourceTable:
    """One `[resources.<name>]`: a `capacity`, or one of the ways to look for it.

    Attributes:
        disk: Folder whose free space is the resource.
        headroom: MiB kept free on that disk.
        devices: Patterns of the stable names of instruments.
        encoder_sessions: Highest number of video encoder sessions that the driver allows.
    """

    capacity: Annotated[int | None, _count("units")] = None
    cells: Annotated[int | None, _count("cells")] = None
    unit: _Text | None = None
    scope: Literal["fleet", "worker"] = "worker"
    disk: Annotated[str, _absolute] | None = None
    headroom: Annotated[int, Plain(memory_kept)] = 0
    devices: Annotated[list[Annotated[str, _stable_name]], _filled] | None = None
    encoder_sessions: Annotated[int | None, _count("sessions")] = None

    @property
    def ways(self) -> tuple[str, ...]:
        """The keys that say where to look for it."""
        return tuple(key for key in ("disk", "devices", "encoder_sessions") if getattr(self, key) is not None)


@dataclass(frozen=True, kw_only=True)
class DetectorTable:
    """One `[detectors.<name>]`.

    Attributes:
        options: All other keys of the table, for that detector alone.
    """

    enabled: bool = True
    options: Annotated[dict[str, object], REST] = field(default_factory=dict[str, object])


@dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """A whole configuration file."""

    settings: SettingsTable = SettingsTable()
    gpus: GpusTable = field(default_factory=GpusTable)
    host: HostTable = HostTable()
    license: dict[str, LicenseTable] = field(default_factory=dict[str, LicenseTable])
    resources: dict[str, ResourceTable] = field(default_factory=dict[str, ResourceTable])
    detectors: dict[str, DetectorTable] = field(default_factory=dict[str, DetectorTable])

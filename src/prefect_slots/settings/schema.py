"""What may be written in the configuration file and in `PREFECT_SLOTS_*` variables.

One pydantic model per table. Values of the file keep their TOML types (`"20"` is no number there); values of variables
are text and are read leniently. What several keys contradict each other in is found by `contradictions`: each has a
place of its own, which a model's validator could not name. Nothing here reads files or the environment.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from prefect_slots.model.amount import (
    CORES,
    MAX_AMOUNT,
    SEATS,
    count_asked,
    format_amount,
    memory_available,
    memory_kept,
)
from prefect_slots.model.declaration import (
    Declarations,
    DeclaredCard,
    DeclaredLicense,
    DeclaredResource,
    DetectorRules,
    EncoderSessions,
    GpuRules,
    HostRules,
    Instruments,
    ScratchSpace,
    Watched,
)
from prefect_slots.model.resource import (
    CPUS,
    GPU_MEM,
    MEM,
    Scope,
    check_feature_name,
    check_resource_name,
    sanitise_machine_name,
)
from prefect_slots.settings.locate import KeyPath

ENV_PREFIX: Final = "PREFECT_SLOTS_"
MAX_CELLS: Final = 1000
"""Most cells of one declared resource: each becomes a limit on the server."""

_IDENTITY: Final = re.compile(r"[A-Za-z0-9._/-]+")
_UNSTABLE: Final = re.compile(r"/(tty(USB|ACM|S)|video|usbtmc|hidraw)[0-9*?\[][^/]*$")
_DETECTED: Final = {GPU_MEM: "[gpus]", MEM: "[host]", CPUS: "[host]"}


def _machine_name(value: str) -> str:
    sanitise_machine_name(value)
    return value


def _state_dir(value: object) -> object:
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
    """Return `None` for `"auto"`, that is as detected, else what `read` makes of `value`."""
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
    return str(PurePosixPath(value))


def _stable_name(value: str) -> str:
    if not value.startswith("/dev/") or any(sign in str(PurePosixPath(value).parent) for sign in "*?["):
        raise ValueError(f"'{value}' is no name under /dev; write one such as '/dev/serial/by-id/usb-FTDI_*'")
    if _UNSTABLE.search(value):
        raise ValueError(
            f"'{value}' names whatever is plugged in first; write its name under /dev/serial/by-id, which stays"
        )
    return value


def _count(unit: str) -> Any:
    return PlainValidator(partial(count_asked, unit=unit))


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SettingsTable(_Table):
    """The `[settings]` table; each key is also the variable `PREFECT_SLOTS_<KEY>`.

    Attributes:
        worker: This machine's name in limit names, as it was written; `None` leaves it to `WORKER_ID` or the host name.
        state_dir: Absolute folder of the ledger; `None` leaves the choice to the ledger.
        max_overtakes: How many later tickets may pass one that does not fit; 0 is strict order.
        when_server_is_away: Whether requests for what is this machine's own go on, wait or fail while the Prefect
            server does not answer; what the fleet shares always waits.
        on_lease_lost: What becomes of a task whose slots were, for a while, free for others to take.
        refresh_seconds: Seconds between two looks at what the machine has.
    """

    worker: Annotated[str, AfterValidator(_machine_name)] | None = None
    state_dir: Annotated[Path, Field(strict=False), BeforeValidator(_state_dir)] | None = None
    coordination: Literal["auto", "both", "local", "off"] = "auto"
    auto_register: bool = False
    max_overtakes: Annotated[int, Field(ge=0, le=MAX_AMOUNT)] = 20
    when_server_is_away: Literal["continue", "wait", "fail"] = "continue"
    on_lease_lost: Literal["keep", "fail"] = "keep"
    refresh_seconds: Annotated[float, Field(ge=1, le=86400, allow_inf_nan=False)] = 30


class CardTable(_Table):
    """One `[[gpus.card]]`."""

    uuid: Annotated[str, AfterValidator(_identity)]
    memory: Annotated[int, PlainValidator(memory_available)]
    name: str = "declared card"


class GpusTable(_Table):
    """The `[gpus]` table."""

    detect: bool = True
    exclude: list[Annotated[str, AfterValidator(_prefix)]] = []
    headroom: Annotated[int, PlainValidator(memory_kept)] = 0
    card: list[CardTable] = []


class HostTable(_Table):
    """The `[host]` table."""

    cpus: Annotated[int | None, PlainValidator(partial(_auto_or, partial(count_asked, unit=CORES)))] = None
    mem: Annotated[int | None, PlainValidator(partial(_auto_or, memory_available))] = None
    mem_headroom: Annotated[int, PlainValidator(memory_kept)] = 0


class LicenseTable(_Table):
    """One `[license.<feature>]`."""

    seats: Annotated[int, _count(SEATS)]
    scope: Literal["fleet", "worker"] = "fleet"


class ResourceTable(_Table):
    """One `[resources.<name>]`: a `capacity`, or one of the ways to look for it; see `contradictions`.

    Attributes:
        disk: Folder whose free space is the resource.
        headroom: Kept free on that disk, in MiB.
        devices: Patterns of the stable names of instruments.
        encoder_sessions: The most video encoder sessions that the driver allows.
    """

    capacity: Annotated[int, _count("units")] | None = None
    cells: Annotated[int, _count("cells")] | None = None
    unit: Annotated[str, Field(min_length=1)] | None = None
    scope: Literal["fleet", "worker"] = "worker"
    disk: Annotated[str, AfterValidator(_absolute)] | None = None
    headroom: Annotated[int, PlainValidator(memory_kept)] = 0
    devices: Annotated[list[Annotated[str, AfterValidator(_stable_name)]], Field(min_length=1)] | None = None
    encoder_sessions: Annotated[int, _count("sessions")] | None = None

    @property
    def ways(self) -> tuple[str, ...]:
        """The keys that say where to look for it."""
        return tuple(key for key in ("disk", "devices", "encoder_sessions") if getattr(self, key) is not None)


class DetectorTable(_Table):
    """One `[detectors.<name>]`; what else stands in it is for that detector alone."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    enabled: bool = True


class ConfigFile(_Table):
    """A whole configuration file."""

    settings: SettingsTable = SettingsTable()
    gpus: GpusTable = GpusTable()
    host: HostTable = HostTable()
    license: dict[str, LicenseTable] = {}
    resources: dict[str, ResourceTable] = {}
    detectors: dict[str, DetectorTable] = {}


class Settings(SettingsTable, BaseSettings):
    """Everything that was set. Made by hand it reads nothing and holds the defaults; see `load_settings`.

    Attributes:
        source: Path of the file that was read, or `"defaults"`.
        declarations: What the file says about the machine.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, strict=False)

    source: str = "defaults"
    declarations: Declarations = Declarations()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take only what is passed: `load_settings` reads the variables, from the mapping it is given."""
        return (init_settings,)


def declarations_of(file: ConfigFile, source: str) -> Declarations:
    """Return what `file` says about the machine, in the model's words."""
    return Declarations(
        gpus=GpuRules(
            detect=file.gpus.detect,
            exclude=tuple(file.gpus.exclude),
            headroom_mib=file.gpus.headroom,
            cards=tuple(DeclaredCard(uuid=c.uuid, memory_mib=c.memory, name=c.name) for c in file.gpus.card),
        ),
        host=HostRules(cpus=file.host.cpus, mem_mib=file.host.mem, mem_headroom_mib=file.host.mem_headroom),
        licenses=tuple(
            DeclaredLicense(feature=feature, seats=table.seats, scope=Scope(table.scope))
            for feature, table in sorted(file.license.items())
        ),
        resources=tuple(
            DeclaredResource(
                name=name, capacity=t.capacity, cells=t.cells or 1, unit=t.unit or "units", scope=Scope(t.scope)
            )
            for name, t in sorted(file.resources.items())
            if t.capacity is not None and not t.ways
        ),
        watched=tuple(_watched(name, t, source) for name, t in sorted(file.resources.items()) if t.ways),
        detectors=tuple(
            DetectorRules(name=name, enabled=table.enabled, options=table.model_extra or {})
            for name, table in sorted(file.detectors.items())
        ),
        source=source,
    )


def _watched(name: str, table: ResourceTable, source: str) -> Watched:
    """Return where to look for a resource that names one way."""
    if table.disk is not None:
        kept = -(-table.headroom // 1024)
        return ScratchSpace(name=name, folder=table.disk, headroom_gib=kept, capacity_gib=table.capacity)
    if table.devices is not None:
        return Instruments(name=name, patterns=tuple(table.devices), unit=table.unit or "device")
    return EncoderSessions(name=name, most=table.encoder_sessions or 0, source=source)


def contradictions(file: ConfigFile) -> Iterator[tuple[KeyPath, str]]:
    """Yield what cannot be true together, or cannot be a name, in a file whose tables are each well-formed."""
    yield from _card_contradictions(file.gpus)
    if file.host.mem is not None and file.host.mem <= file.host.mem_headroom:
        kept = format_amount(file.host.mem_headroom, "MiB")
        yield (
            ("host", "mem_headroom"),
            f"keeping {kept} free leaves nothing of mem = {format_amount(file.host.mem, 'MiB')}",
        )
    for feature in file.license:
        try:
            check_feature_name(feature)
        except ValueError as wrong:
            yield ("license", feature), str(wrong)
    for name, table in file.resources.items():
        path = ("resources", name)
        if name in _DETECTED:
            yield path, f"'{name}' is detected; what you know about it goes into {_DETECTED[name]}"
            continue
        try:
            check_resource_name(name)
        except ValueError as wrong:
            yield path, str(wrong)
        yield from _way_contradictions(path, table)
        if table.scope == "fleet" and (table.cells or 1) > 1:
            yield (
                (*path, "cells"),
                'a fleet shares one number, so it has one cell; remove cells, or write scope = "worker"',
            )
        if (table.cells or 1) > MAX_CELLS:
            yield (*path, "cells"), f"at most {MAX_CELLS} cells: each becomes a limit on the server"
        elif (table.capacity or 0) * (table.cells or 1) > MAX_AMOUNT:
            yield (*path, "capacity"), f"all cells together are more than a limit can count ({MAX_AMOUNT})"


def _way_contradictions(path: KeyPath, table: ResourceTable) -> Iterator[tuple[KeyPath, str]]:
    if not table.ways:
        if table.capacity is None:
            yield (*path, "capacity"), "is missing; or say where to look: disk, devices or encoder_sessions"
        if table.headroom:
            yield (*path, "headroom"), "only a disk has a headroom; declare a smaller capacity"
        return
    way, *others = table.ways
    if others:
        yield (*path, others[0]), f"a resource is looked for in one way, and this one has {way}"
    if table.scope == "fleet":
        yield (*path, "scope"), f"{way} is looked for on this machine, so it cannot be the fleet's; declare capacity"
    unused = {
        "disk": ("cells", "unit"),
        "devices": ("capacity", "cells", "headroom"),
        "encoder_sessions": ("capacity", "cells", "unit", "headroom"),
    }
    for key in unused[way]:
        if getattr(table, key):
            yield (*path, key), f"{way} decides that; remove {key}"


def _card_contradictions(gpus: GpusTable) -> Iterator[tuple[KeyPath, str]]:
    rules = GpuRules(exclude=tuple(gpus.exclude))
    seen: Counter[str] = Counter()
    for position, card in enumerate(gpus.card):
        path = ("gpus", "card", position, "uuid")
        seen[card.uuid] += 1
        if seen[card.uuid] == 2:
            yield path, f"'{card.uuid}' is declared twice; every card has its own uuid"
        if rules.excludes(card.uuid):
            yield path, f"'{card.uuid}' is declared here and excluded by [gpus] exclude; remove one of the two"
    if sum(card.memory for card in gpus.card) > MAX_AMOUNT:
        yield ("gpus", "card"), f"all cards together are more than a limit can count ({MAX_AMOUNT} MiB)"

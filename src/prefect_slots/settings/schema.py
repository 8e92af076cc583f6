"""What may be written in the configuration file and in `PREFECT_SLOTS_*` variables.

One pydantic model per table. Values of the file keep their TOML types (`"20"` is no number there); values of variables
are text and are read leniently. What several keys contradict each other in is found by `contradictions`: each has a
place of its own, which a model's validator could not name. Nothing here reads files or the environment.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

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
    GpuRules,
    HostRules,
    LicenseServer,
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
POLL_SECONDS: Final = 60.0
LICENSE_TIMEOUT: Final = 10.0

_SERVER_KEYS: Final = ("server", "command", "feature", "features", "headroom", "poll_seconds", "timeout")

# No word of a vendor's command line may begin with a dash.
_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*|\[?[0-9A-Fa-f:]+\]?")
_IDENTITY: Final = re.compile(r"[A-Za-z0-9._/-]+")
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


def _license_server(value: str) -> str:
    for address in value.split(","):
        port, at, host = address.partition("@")
        if not (at and port.isascii() and port.isdigit() and 0 < int(port) < 65536 and _HOST.fullmatch(host)):
            raise ValueError("a licence server is written port@host, a group of three with commas between")
    return value


def _command(value: object) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list):
        raise ValueError("the path of a program is needed, or a list of a program and its first arguments")
    command = tuple(word for word in cast("list[object]", words) if isinstance(word, str) and word and "\0" not in word)
    if not command or len(command) < len(words):
        raise ValueError("the path of a program is needed, or a list of a program and its first arguments")
    return command


def _features(value: object) -> tuple[tuple[str, str], ...]:
    """Return the names that tasks ask for, each with what the server calls it."""
    table = {str(name): name for name in cast("list[object]", value)} if isinstance(value, list) else value
    if not isinstance(table, dict) or not table:
        raise ValueError("a list of features is needed, or a table of the names that tasks ask for")
    pairs = tuple(cast("dict[str, object]", table).items())
    if not all(isinstance(feature, str) and feature for _, feature in pairs):
        raise ValueError("each feature is text in quotes, as the server calls it")
    return tuple(sorted((name, str(feature)) for name, feature in pairs))


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
    """One `[license.<name>]`: either `seats`, or the `type` and `server` that count them.

    Attributes:
        command: The vendor's program; a list where something has to stand before its own arguments.
        feature: What the server calls this licence; its own name by default.
        features: Several features of one server, as a list or by the names that tasks ask for.
    """

    seats: Annotated[int, _count(SEATS)] | None = None
    type: Literal["flexnet", "rlm", "lmx", "lsdyna", "dsls", "olicense", "sentinel"] | None = None
    server: Annotated[str, AfterValidator(_license_server)] | None = None
    command: Annotated[tuple[str, ...], PlainValidator(_command)] | None = None
    feature: Annotated[str, Field(min_length=1)] | None = None
    features: Annotated[tuple[tuple[str, str], ...], PlainValidator(_features)] | None = None
    headroom: Annotated[int, Field(ge=0, le=MAX_AMOUNT)] | None = None
    poll_seconds: Annotated[float, Field(ge=30, le=86400, allow_inf_nan=False)] | None = None
    timeout: Annotated[float, Field(ge=1, le=300, allow_inf_nan=False)] | None = None
    scope: Literal["fleet", "worker"] | None = None


class ResourceTable(_Table):
    """One `[resources.<name>]`."""

    capacity: Annotated[int, _count("units")]
    cells: Annotated[int, _count("cells")] = 1
    unit: Annotated[str, Field(min_length=1)] = "units"
    scope: Literal["fleet", "worker"] = "worker"


class ConfigFile(_Table):
    """A whole configuration file."""

    settings: SettingsTable = SettingsTable()
    gpus: GpusTable = GpusTable()
    host: HostTable = HostTable()
    license: dict[str, LicenseTable] = {}
    resources: dict[str, ResourceTable] = {}


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
            DeclaredLicense(feature=feature, seats=table.seats, scope=Scope(table.scope or Scope.FLEET))
            for feature, table in sorted(file.license.items())
            if table.seats is not None
        ),
        license_servers=tuple(
            _license_server_of(name, table) for name, table in sorted(file.license.items()) if table.type is not None
        ),
        resources=tuple(
            DeclaredResource(name=name, capacity=t.capacity, cells=t.cells, unit=t.unit, scope=Scope(t.scope))
            for name, t in sorted(file.resources.items())
        ),
        source=source,
    )


def _license_server_of(name: str, table: LicenseTable) -> LicenseServer:
    return LicenseServer(
        vendor=table.type or "",
        server=table.server or "",
        command=table.command or (),
        features=_named_features(name, table),
        headroom=table.headroom or 0,
        poll_seconds=POLL_SECONDS if table.poll_seconds is None else table.poll_seconds,
        timeout=LICENSE_TIMEOUT if table.timeout is None else table.timeout,
        scope=None if table.scope is None else Scope(table.scope),
    )


def _named_features(name: str, table: LicenseTable) -> tuple[tuple[str, str], ...]:
    return table.features or ((name, table.feature or name),)


def contradictions(file: ConfigFile) -> Iterator[tuple[KeyPath, str]]:
    """Yield what cannot be true together, or cannot be a name, in a file whose tables are each well-formed."""
    yield from _card_contradictions(file.gpus)
    if file.host.mem is not None and file.host.mem <= file.host.mem_headroom:
        kept = format_amount(file.host.mem_headroom, "MiB")
        yield (
            ("host", "mem_headroom"),
            f"keeping {kept} free leaves nothing of mem = {format_amount(file.host.mem, 'MiB')}",
        )
    yield from _license_contradictions(file.license)
    for name, table in file.resources.items():
        path = ("resources", name)
        if name in _DETECTED:
            yield path, f"'{name}' is detected; what you know about it goes into {_DETECTED[name]}"
            continue
        try:
            check_resource_name(name)
        except ValueError as wrong:
            yield path, str(wrong)
        if table.scope == "fleet" and table.cells > 1:
            yield (
                (*path, "cells"),
                'a fleet shares one number, so it has one cell; remove cells, or write scope = "worker"',
            )
        if table.cells > MAX_CELLS:
            yield (*path, "cells"), f"at most {MAX_CELLS} cells: each becomes a limit on the server"
        elif table.capacity * table.cells > MAX_AMOUNT:
            yield (*path, "capacity"), f"all cells together are more than a limit can count ({MAX_AMOUNT})"


def _license_contradictions(tables: Mapping[str, LicenseTable]) -> Iterator[tuple[KeyPath, str]]:
    owners: dict[str, str] = {}
    for table_name, table in tables.items():
        path = ("license", table_name)
        asked = [key for key in _SERVER_KEYS if getattr(table, key) is not None]
        if table.type is None and table.seats is None:
            missing = "type" if asked else "seats"
            yield (*path, missing), "is missing; write seats, or the type and server of the licence server to ask"
        elif table.type is None and asked:
            yield (*path, asked[0]), "goes with the type of a licence server; seats are a number that stands"
        elif table.type is not None and table.seats is not None:
            yield (*path, "seats"), "the server tells the seats; remove seats, or type"
        elif table.type is not None and table.server is None:
            yield (*path, "server"), "is missing; write the server as port@host"
        elif table.server is not None and table.type != "flexnet" and "," in table.server:
            yield (*path, "server"), "only flexnet has groups of three servers; write one port@host"
        if table.feature is not None and table.features is not None:
            yield (*path, "features"), "write feature for one, or features for several"
            continue
        for name, _ in _named_features(table_name, table):
            place = path if table.features is None else (*path, "features")
            try:
                check_feature_name(name)
            except ValueError as wrong:
                remedy = "" if table.features is None else '; name it: features = { name = "feature" }'
                yield place, f"{wrong}{remedy}"
            if name in owners:
                yield place, f"'{name}' is also what [license.{owners[name]}] offers; name one of them otherwise"
            owners.setdefault(name, table_name)


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

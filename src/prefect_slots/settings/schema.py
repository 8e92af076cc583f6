"""What may be written in the configuration file and in `PREFECT_SLOTS_*` variables.

One pydantic model per table. Values of the file keep their TOML types (`"20"` is no number there); values of variables
are text and are read leniently. Nothing here reads files or the environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from prefect_slots.model.amount import (
    CORES,
    MAX_AMOUNT,
    SEATS,
    count_asked,
    memory_available,
    memory_kept,
)
from prefect_slots.model.resource import sanitise_machine_name
from prefect_slots.settings.values import ENV_PREFIX

# No word of a vendor's command line may begin with a dash.
_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*|\[?[0-9A-Fa-f:]+\]?")
_IDENTITY: Final = re.compile(r"[A-Za-z0-9._:/-]+")
_UNSTABLE: Final = re.compile(r"/(tty(USB|ACM|S)|video|usbtmc|hidraw)[0-9*?\[][^/]*$")


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
    if "\0" in value:
        raise ValueError("no folder has a NUL character in its name")
    return str(PurePosixPath(value))


def _stable_name(value: str) -> str:
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
    """The `[settings]` table; each key is also the variable `PREFECT_SLOTS_<KEY>`. See `values.Settings`."""

    worker: Annotated[str, AfterValidator(_machine_name)] | None = None
    state_dir: Annotated[Path, Field(strict=False), BeforeValidator(_state_dir)] | None = None
    coordination: Literal["auto", "both", "local", "off"] = "auto"
    auto_register: bool = False
    max_overtakes: Annotated[int, Field(ge=0, le=MAX_AMOUNT)] = 20
    when_server_is_away: Literal["continue", "wait", "fail"] = "continue"
    on_lease_lost: Literal["keep", "fail"] = "keep"
    refresh_seconds: Annotated[float, Field(ge=1, le=86400, allow_inf_nan=False)] = 30
    detect_seconds: Annotated[float, Field(ge=1, le=600, allow_inf_nan=False)] = 20
    use_seconds: Annotated[float, Field(ge=0.2, le=86400, allow_inf_nan=False)] = 5
    hold_seconds: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = 30
    stale_after: Annotated[int, Field(ge=1, le=MAX_AMOUNT)] = 3
    enforce: Literal["warn", "kill"] = "warn"


class CardTable(_Table):
    """One `[[gpus.card]]`."""

    uuid: Annotated[str, AfterValidator(_identity)]
    memory: Annotated[int, PlainValidator(memory_available)]
    name: str = "declared card"


class GpusTable(_Table):
    """The `[gpus]` table.

    Attributes:
        ignore: Programs' names and process ids whose memory is not counted as others' use.
    """

    detect: bool = True
    exclude: list[Annotated[str, AfterValidator(_prefix)]] = []
    ignore: list[Annotated[str, Field(min_length=1)] | Annotated[int, Field(ge=1)]] = []
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
        grace_seconds: How long it takes until the server shows what a task was granted, or gave back.
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
    grace_seconds: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] | None = None
    scope: Literal["fleet", "worker"] | None = None


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


class SettingVariables(SettingsTable, BaseSettings):
    """The same keys as variables give them, as text."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, strict=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take only what is passed: `checking` reads the variables, from the mapping it is given."""
        return (init_settings,)


def named_features(name: str, table: LicenseTable) -> tuple[tuple[str, str], ...]:
    """Return the names that tasks ask for by that table, each with what the server calls it."""
    return table.features or ((name, table.feature or name),)

"""Reading settings: the file is found, variables are laid over it, the first mistake is reported with its place.

Every mistake becomes one `ConfigError`: of the file with its line, of a variable with the variable's name. Nothing here
knows what a value means; that is `schema`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import Any, Final, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource

from prefect_slots.errors import ConfigError, nearest
from prefect_slots.settings.contradictions import contradictions
from prefect_slots.settings.declarations import declarations_of
from prefect_slots.settings.locate import KeyPath, key_lines, line_of
from prefect_slots.settings.schema import ENV_PREFIX, ConfigFile, Settings, SettingsTable

CONFIG_VARIABLE: Final = "PREFECT_SLOTS_CONFIG"
WORKER_ID: Final = "WORKER_ID"
LOCAL_FILE: Final = "prefect-slots.toml"
SYSTEM_FILE: Final = Path("/etc/prefect-slots.toml")

SETTING_VARIABLES: Final = tuple(ENV_PREFIX + field.upper() for field in SettingsTable.model_fields)
# Set by prefect-slots itself or read before the file is; they are no keys of `[settings]`.
OTHER_VARIABLES: Final = (CONFIG_VARIABLE, "PREFECT_SLOTS_GRANT")


def load_settings(
    config: Path | None = None, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Settings:
    """Read the settings of this process.

    Args:
        config: The file that was named on the command line; it must exist.
        env: The environment to read; this process's own by default. An empty variable counts as not set.
        cwd: The folder that relative paths start from; the current one by default.

    Returns:
        The settings. `worker` is `PREFECT_SLOTS_WORKER`, else the file's, else `WORKER_ID`.

    Raises:
        ConfigError: for a file that cannot be read, and for the first wrong key or value in the file or a variable.
    """
    env = os.environ if env is None else env
    path = choose_file(config, env, cwd or Path())
    file = ConfigFile() if path is None else read_file(path)
    source = "defaults" if path is None else str(path)
    written = file.settings.model_dump()
    if file.settings.worker is None and env.get(WORKER_ID):
        written["worker"] = env[WORKER_ID]
    values = {**written, **read_variables(env)}
    try:
        return Settings(**values, source=source, declarations=declarations_of(file, source))
    except ValidationError as error:
        # The file's own values have passed, so the mistake is in a variable.
        detail = error.errors()[0]
        field = str(detail["loc"][0])
        variable = ENV_PREFIX + field.upper()
        if field == "worker" and not env.get(variable):
            variable = WORKER_ID
        raise ConfigError(source=variable, key="", reason=_reason(detail)) from None


def choose_file(config: Path | None, env: Mapping[str, str], cwd: Path, system: Path = SYSTEM_FILE) -> Path | None:
    """Return the file to read: the one asked for, else the first that exists; `None` where there is none.

    Raises:
        ConfigError: if a file that was asked for by name does not exist. Falling through to another one would run a
            machine on rules that nobody chose.
    """
    named = config, "--config"
    if config is None and env.get(CONFIG_VARIABLE):
        named = Path(env[CONFIG_VARIABLE]), CONFIG_VARIABLE
    if named[0] is not None:
        path = cwd / named[0]
        if not _exists(path):
            raise ConfigError(source=named[1], key="", reason=f"there is no file {path}")
        return path.absolute()
    return next((path.absolute() for path in (cwd / LOCAL_FILE, system) if _exists(path)), None)


def read_file(path: Path) -> ConfigFile:
    """Read and check one configuration file.

    Raises:
        ConfigError: with the file's name and, where one can be told, the line.
    """
    text = _read_text(path)
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            source=str(path), key="", reason=f"not valid TOML: {_toml_words(error)}", line=_toml_line(error, text)
        ) from None
    wrong: list[tuple[KeyPath, str]]
    try:
        file = ConfigFile.model_validate(document)
    except ValidationError as error:
        # A mistyped key is reported before the required key that is missing because of it.
        details = [detail for detail in error.errors() if detail["type"] != "missing"] or error.errors()
        wrong = [(_document_path(detail["loc"], document), _file_reason(detail)) for detail in details]
    else:
        wrong = list(contradictions(file))
        if not wrong:
            return file
    lines = key_lines(text)
    line, at, reason = min((line_of(at, lines) or 1, _spell(at), reason) for at, reason in wrong)
    raise ConfigError(source=str(path), key=at, reason=reason, line=line)


def read_variables(env: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that `PREFECT_SLOTS_*` variables give, still as text.

    Raises:
        ConfigError: for a variable of that prefix that is no setting.
    """
    known = SETTING_VARIABLES + OTHER_VARIABLES
    for name in sorted(env):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            raise ConfigError(source=name, key="", reason=f"there is no such setting; {_nearest_variable(name, known)}")
    variables = EnvSettingsSource(Settings)
    variables.env_vars = {name.lower(): value for name, value in env.items() if value}
    return variables()


def _nearest_variable(name: str, known: tuple[str, ...]) -> str:
    # The prefix that all share would make every name look close.
    bare = tuple(variable.removeprefix(ENV_PREFIX) for variable in known)
    close = get_close_matches(name.upper().removeprefix(ENV_PREFIX), bare, n=1, cutoff=0.5)
    return f"did you mean {ENV_PREFIX}{close[0]}?" if close else f"known: {', '.join(sorted(known))}"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # A file behind a folder that we may not enter must not pass for no file: reading it then says why.
        return True


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(source=str(path), key="", reason=f"cannot be read ({error.strerror})") from None
    try:
        # Editors on Windows begin a file with a byte order mark, which TOML does not know.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(source=str(path), key="", reason="is not UTF-8 text", line=line) from None


_AT_LINE: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def _toml_words(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else _AT_LINE.sub("", str(error))


def _toml_line(error: Exception, text: str) -> int | None:
    match = _AT_LINE.search(str(error))
    if match is None:
        return None
    return int(match[1]) if match[1] else text.rstrip().count("\n") + 1


def _document_path(loc: tuple[int | str, ...], document: Any) -> KeyPath:
    """Return the part of a validator's `loc` that is in the document; the rest names parts of a type."""
    path: KeyPath = ()
    here: Any = document
    for part in loc:
        if isinstance(here, dict):
            here = cast("dict[object, Any]", here).get(part)
        elif isinstance(here, list) and isinstance(part, int):
            here = cast("list[Any]", here)[part]
        else:
            return path
        path += (part,)
    return path


def _spell(path: KeyPath) -> str:
    """Write a path as a person would: `[[gpus.card]]` number 2 is `gpus.card[2]`."""
    text = ""
    for part in path:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _file_reason(detail: ErrorDetails) -> str:
    loc = detail["loc"]
    if detail["type"] != "extra_forbidden":
        return _reason(detail)
    return f"unknown key; {nearest(str(loc[-1]), tuple(_fields_at(loc[:-1])))}"


def _fields_at(loc: Iterable[int | str]) -> Iterable[str]:
    """Return the keys that the table at `loc` may hold."""
    model: type[BaseModel] = ConfigFile
    for part in loc:
        if str(part) in model.model_fields:
            annotation: Any = model.model_fields[str(part)].annotation
            model = next(filter(_is_model, (annotation, *get_args(annotation))), model)
    return model.model_fields


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


_SHOWN: Final = Repr()
_SHOWN.maxstring = _SHOWN.maxlong = 60

_NEEDED: Final = {
    "missing": "is missing",
    "string_type": "text in quotes is needed",
    "string_too_short": "must not be empty",
    "int_type": "a whole number is needed",
    "int_parsing": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "float_type": "a number is needed",
    "float_parsing": "a number is needed",
    "finite_number": "a finite number is needed",
    "bool_type": "true or false is needed",
    "bool_parsing": "true or false is needed",
    "model_type": "a table is needed",
    "dict_type": "a table is needed",
    "list_type": "a list is needed",
}


def _reason(detail: ErrorDetails) -> str:
    """Say what is wrong with a value, what it is, and what would be right."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        reason = str(context["error"])
    elif kind == "literal_error":
        reason = f"one of {context['expected']} is needed"
    elif kind in _NEEDED:
        reason = _NEEDED[kind]
    else:
        reason = detail["msg"].removeprefix("Input ")
    given = _SHOWN.repr(detail["input"])
    shown = kind != "missing" and isinstance(detail["input"], (str, int, float)) and given not in reason
    return f"{reason} (it is {given})" if shown else reason

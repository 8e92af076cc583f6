"""Checking what was set: of a file's text and of variables, the first mistake is reported with its place.

Every mistake becomes one `ConfigError`: of the file with its line, of a variable with the variable's name. Nothing here
knows what a value means; that is `schema`.
"""

from __future__ import annotations

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
from prefect_slots.model.book import TOKEN
from prefect_slots.settings.checks import contradictions
from prefect_slots.settings.declarations import declarations_of
from prefect_slots.settings.lines import KeyPath, key_lines, line_of
from prefect_slots.settings.schema import ConfigFile, SettingsTable, SettingVariables
from prefect_slots.settings.values import CONFIG_VARIABLE, ENV_PREFIX, WORKER_ID, Settings

SETTING_VARIABLES: Final = tuple(ENV_PREFIX + field.upper() for field in SettingsTable.model_fields)
# Set by prefect-slots itself or read before the file is; they are no keys of `[settings]`.
OTHER_VARIABLES: Final = (CONFIG_VARIABLE, TOKEN)


def check(path: Path | None, raw: bytes, env: Mapping[str, str]) -> Settings:
    """Return what a file and variables set.

    Args:
        path: The file, for messages; `None` if there is none.
        raw: What stands in it.
        env: The variables; an empty one counts as not set.

    Raises:
        ConfigError: for the first wrong key or value in the file or a variable.
    """
    file = ConfigFile() if path is None else check_file(path, raw)
    source = "defaults" if path is None else str(path)
    written = file.settings.model_dump()
    if file.settings.worker is None and env.get(WORKER_ID):
        written["worker"] = env[WORKER_ID]
    try:
        checked = SettingVariables(**{**written, **read_variables(env)})
    except ValidationError as error:
        # The file's own values have passed, so the mistake is in a variable.
        detail = error.errors()[0]
        field = str(detail["loc"][0])
        variable = ENV_PREFIX + field.upper()
        if field == "worker" and not env.get(variable):
            variable = WORKER_ID
        raise ConfigError(source=variable, key="", reason=_reason(detail)) from None
    return Settings(**checked.model_dump(), source=source, declarations=declarations_of(file, source))


def check_file(path: Path, raw: bytes) -> ConfigFile:
    """Check what stands in one configuration file.

    Raises:
        ConfigError: with the file's name and, where one can be told, the line.
    """
    text = _decode(path, raw)
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
    variables = EnvSettingsSource(SettingVariables)
    variables.env_vars = {name.lower(): value for name, value in env.items() if value}
    return variables()


def _nearest_variable(name: str, known: tuple[str, ...]) -> str:
    # The prefix that all share would make every name look close.
    bare = tuple(variable.removeprefix(ENV_PREFIX) for variable in known)
    close = get_close_matches(name.upper().removeprefix(ENV_PREFIX), bare, n=1, cutoff=0.5)
    return f"did you mean {ENV_PREFIX}{close[0]}?" if close else f"known: {', '.join(sorted(known))}"


def _decode(path: Path, raw: bytes) -> str:
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
    "too_short": "must not be empty",
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

"""Conversion of TOML values and of variables' text to the tables of `schema`, without pydantic.

Importing pydantic-settings takes longer than all else that `prefect-slots run` does before its command. Only plainly
valid values are converted here. A doubtful value raises `ValueError`; `mistakes` then decides on it and words it.
"""

import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from prefect_slots.errors import ConfigError
from prefect_slots.model import TOKEN
from prefect_slots.settings import schema
from prefect_slots.settings.checks import contradictions
from prefect_slots.settings.declarations import declarations_of

T = TypeVar("T")

# Set by prefect-slots itself or read before the file is; they are no keys of `[settings]`.
OTHER_VARIABLES = (schema.CONFIG_VARIABLE, TOKEN)
# Python's own readers also take underscores, blanks and other scripts' digits.
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def convert(path: Path | None, raw: bytes, env: Mapping[str, str]) -> schema.Settings:
    """Return the settings of a file and of variables.

    Args:
        path: The file; `None` if there is none.
        raw: The file's content.
        env: The variables; an empty one counts as not set.

    Raises:
        ValueError: if anything is wrong or doubtful; the text is not for people.
    """
    # Editors on Windows begin a file with a byte order mark, which TOML does not know.
    file = table(schema.ConfigFile, tomllib.loads(raw.decode("utf-8-sig")))
    # One contradiction is enough for doubt.
    for place, reason in contradictions(file):
        raise ValueError(place, reason)
    texts = setting_texts(file, env)
    hints = {each.name: each.type for each in fields(schema.SettingsTable)}
    return settings_of(path, file, {name: _from_text(hints[name], text) for name, text in texts.items()})


def readable(raw: bytes, env: Mapping[str, str], line: int | None) -> schema.SettingsTable:
    """Return the keys of `[settings]` that are plainly valid in a file or in variables, whatever else is wrong there.

    Args:
        raw: The file's content.
        env: The variables, which win.
        line: The line of the mistake: of a text that is no TOML, the lines before it are read.
    """
    text = raw.decode("utf-8-sig", "replace")
    document: dict[str, Any] = {}
    for part in (text, "\n".join(text.split("\n")[: (line or 1) - 1])):
        with suppress(ValueError, RecursionError):
            document = tomllib.loads(part)
            break
    written = document.get("settings")
    keys: dict[str, Any] = {}
    for each in fields(schema.SettingsTable):
        with suppress(ValueError):
            if isinstance(written, dict) and each.name in written:
                keys[each.name] = _value(each.type, written[each.name])
        with suppress(ValueError):
            if given := env.get(schema.ENV_PREFIX + each.name.upper()):
                keys[each.name] = _from_text(each.type, given)
    return schema.SettingsTable(**keys)


def settings_of(path: Path | None, file: schema.ConfigFile, variables: Mapping[str, Any]) -> schema.Settings:
    """Return the settings of a checked file and of checked variables, which win."""
    source = "defaults" if path is None else str(path)
    keys = vars(replace(file.settings, **variables))
    return schema.Settings(**keys, source=source, declarations=declarations_of(file, source))


def setting_texts(file: schema.ConfigFile, env: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each setting that variables give, by its key; `WORKER_ID` stands behind the file.

    Raises:
        ConfigError: for a variable of the prefix that is no setting.
    """
    keys = {schema.ENV_PREFIX + each.name.upper(): each.name for each in fields(schema.SettingsTable)}
    texts: dict[str, str] = {}
    # The name that Prefect users give their workers already; the file and the variable of ours win.
    if file.settings.worker is None and env.get(schema.WORKER_ID):
        texts["worker"] = env[schema.WORKER_ID]
    for name in sorted(env):
        if not name.upper().startswith(schema.ENV_PREFIX) or name.upper() in OTHER_VARIABLES:
            continue
        if name.upper() not in keys:
            known = (*keys, *OTHER_VARIABLES)
            raise ConfigError(source=name, key="", reason=f"there is no such setting; {_nearest(name, known)}")
        if env[name]:
            texts[keys[name.upper()]] = env[name]
    return texts


def _nearest(name: str, known: tuple[str, ...]) -> str:
    # The prefix that all share would make every name look close.
    bare = tuple(variable.removeprefix(schema.ENV_PREFIX) for variable in known)
    close = get_close_matches(name.upper().removeprefix(schema.ENV_PREFIX), bare, n=1, cutoff=0.5)
    return f"did you mean {schema.ENV_PREFIX}{close[0]}?" if close else f"known: {', '.join(sorted(known))}"


def table(kind: type[T], data: object) -> T:
    """Return a table of the schema, made of a TOML table.

    Raises:
        ValueError: for a key or value that is not plainly valid.
    """
    if not isinstance(data, dict):
        raise ValueError(data)
    left = dict(cast("dict[str, object]", data))
    made: dict[str, Any] = {}
    rest = ""
    for each in fields(cast("Any", kind)):
        if is_rest(each):
            rest = each.name
        elif each.name in left:
            made[each.name] = _value(each.type, left.pop(each.name))
        elif is_required(each):
            raise ValueError(each.name)
    # An unknown key is most often a mistyped one: it must not pass in silence.
    if rest:
        made[rest] = left
    elif left:
        raise ValueError(left)
    return kind(**made)


def is_rest(field: Field[Any]) -> bool:
    """Tell whether a field of a table holds the keys without a declaration of their own."""
    return schema.REST in getattr(field.type, "__metadata__", ())


def is_required(field: Field[Any]) -> bool:
    """Tell whether a table must have that key."""
    return field.default is MISSING and field.default_factory is MISSING


def _value(hint: Any, given: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind, *checks = args
        # Such a check takes several types, as `"8GiB"` or 8, and so comes before the check of the type.
        if isinstance(checks[0], schema.Plain):
            return checks[0].read(given)
        given = _value(kind, given)
        for check in checks:
            given = check(given)
        return given
    if origin in (Union, UnionType):
        for each in args:
            try:
                return _value(each, given)
            except ValueError:
                continue
    elif origin is list and isinstance(given, list):
        return [_value(args[0], each) for each in cast("list[object]", given)]
    elif origin is dict and isinstance(given, dict):
        return {name: _value(args[1], each) for name, each in cast("dict[str, object]", given).items()}
    elif is_dataclass(hint):
        return table(cast("type[Any]", hint), given)
    elif origin is Literal:
        if type(given) is str and given in args:
            return given
    elif hint is float and type(given) is int:
        return float(given)
    # `True` is an instance of `int`, and no number in a file.
    elif type(given) is hint:
        return given
    raise ValueError(given)


def _from_text(hint: Any, text: str) -> Any:
    """Return the value of a variable's text: a number or a truth as plainly written, else as in a file."""
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if kind is bool:
        return _TRUTHS[text.lower()] if text.lower() in _TRUTHS else _value(hint, text)
    if kind in (int, float) and _NUMBER.fullmatch(text):
        return _value(hint, kind(text))
    return _value(hint, text)

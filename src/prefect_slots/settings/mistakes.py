"""The pydantic schema of the settings, derived from `schema`, and the words and places of mistakes.

Every mistake becomes one `ConfigError`: of the file with its line, of a variable with the variable's name.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from reprlib import Repr
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator, ValidationError, create_model
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from prefect_slots.errors import ConfigError, nearest
from prefect_slots.settings.checks import contradictions
from prefect_slots.settings.convert import is_required, is_rest, setting_texts, settings_of, table
from prefect_slots.settings.lines import KeyPath, key_lines, line_of
from prefect_slots.settings.schema import ENV_PREFIX, WORKER_ID, ConfigFile, Plain, Settings, SettingsTable


# Text of variables is read leniently ("yes", " 7 "); values of a file keep their TOML types ("20" is no number).
class Variables(BaseSettings):
    """Base of the model of variables: text, read leniently."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, validate_default=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take only the texts that are passed: the environment may be another process's."""
        return (init_settings,)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


def model_of(kind: Any, base: type[BaseModel] | None = None) -> type[BaseModel]:
    """Return the pydantic model of a table. Defaults are left out: `convert` makes the values."""
    known = [each for each in fields(kind) if not is_rest(each)]
    # A table with a field for the rest takes any key.
    base = base or (_Strict if len(known) == len(fields(kind)) else _Open)
    keys: dict[str, Any] = {each.name: (_hint(each.type), ... if is_required(each) else None) for each in known}
    return create_model(kind.__name__, __base__=base, **keys)


def _hint(hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind, *checks = args
        wrapped = (PlainValidator(each.read) if isinstance(each, Plain) else AfterValidator(each) for each in checks)
        return Annotated[(_hint(kind), *wrapped)]
    if origin in (Union, UnionType):
        return Union[tuple(map(_hint, args))]  # noqa: UP007
    if origin in (list, dict):
        return cast("Any", origin)[tuple(map(_hint, args))]
    return model_of(hint) if is_dataclass(hint) else hint


# Made at import: only a mistake or a doubtful value imports this module.
FILE_MODEL = model_of(ConfigFile)
VARIABLES_MODEL = model_of(SettingsTable, Variables)


def check(path: Path | None, raw: bytes, env: Mapping[str, str]) -> Settings:
    """Return the settings of a file and of variables; see `convert.convert`.

    Raises:
        ConfigError: for the first wrong key or value in the file or a variable.
    """
    file = ConfigFile() if path is None else check_file(path, raw)
    texts = setting_texts(file, env)
    # The file has passed, so a mistake here is a variable's.
    try:
        checked = VARIABLES_MODEL.model_validate(texts)
    except ValidationError as error:
        detail = error.errors()[0]
        key = str(detail["loc"][0])
        variable = ENV_PREFIX + key.upper()
        if key == "worker" and not env.get(variable):
            variable = WORKER_ID
        raise ConfigError(source=variable, key="", reason=_reason(detail)) from None
    return settings_of(path, file, checked.model_dump(exclude_unset=True))


def check_file(path: Path, raw: bytes) -> ConfigFile:
    """Return the tables of one configuration file.

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
    try:
        FILE_MODEL.model_validate(document)
    except ValidationError as error:
        # A mistyped key is reported before the required key that is missing because of it.
        details = [detail for detail in error.errors() if detail["type"] != "missing"] or error.errors()
        wrong = [(_document_path(detail["loc"], document), _file_reason(detail)) for detail in details]
    else:
        file = table(ConfigFile, document)
        wrong = list(contradictions(file))
        if not wrong:
            return file
    lines = key_lines(text)
    line, at, reason = min((line_of(at, lines) or 1, _spell(at), reason) for at, reason in wrong)
    raise ConfigError(source=str(path), key=at, reason=reason, line=line)


def _decode(path: Path, raw: bytes) -> str:
    try:
        # Editors on Windows begin a file with a byte order mark, which TOML does not know.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(source=str(path), key="", reason="is not UTF-8 text", line=line) from None


# The end of `tomllib`'s messages; before Python 3.14 its errors have no line of their own.
_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


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
    """Return the keys of the table at `loc`."""
    kind: Any = ConfigFile
    for part in loc:
        hint = next((each.type for each in fields(kind) if each.name == part), None)
        kind = next(filter(is_dataclass, (hint, *get_args(hint))), kind)
    return [each.name for each in fields(kind)]


# A value of thousands of digits or letters would bury the message.
_SHOWN = Repr()
_SHOWN.maxstring = _SHOWN.maxlong = 60

# Words for the kinds of mistakes that pydantic words for programmers.
_NEEDED = {
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
    """Return the mistake, the right form and the value itself, in words."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        reason = str(context["error"])
    elif kind == "literal_error":
        reason = f"one of {context['expected']} is needed"
    else:
        reason = _NEEDED.get(kind) or detail["msg"].removeprefix("Input ")
    given = _SHOWN.repr(detail["input"])
    shown = kind != "missing" and isinstance(detail["input"], (str, int, float)) and given not in reason
    return f"{reason} (it is {given})" if shown else reason

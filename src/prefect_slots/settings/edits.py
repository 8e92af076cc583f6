"""Differences between two texts of a configuration file, key by key, in words for people."""

import tomllib
from collections.abc import Iterator
from typing import Any, cast

from prefect_slots.settings.lines import KeyPath, key_lines, line_of


def edits(source: str, before: bytes, after: bytes) -> Iterator[tuple[str, str]]:
    """Yield each key that was added, removed or given another value, with words that name the place.

    Args:
        source: The file's name.
        before: Its former content, which was valid.
        after: Its content now, which is valid.
    """
    text = after.decode("utf-8-sig")
    old, new = dict(_flat(tomllib.loads(before.decode("utf-8-sig")))), dict(_flat(tomllib.loads(text)))
    lines = key_lines(text)
    for path in sorted(old.keys() | new.keys(), key=str):
        if path in old and path in new and old[path] == new[path]:
            continue
        key = ".".join(str(part) for part in path)
        line = line_of(path, lines) if path in new else None
        place = f"{source}:{line}" if line else source
        if path not in new:
            change = f"{old[path]!r} is removed"
        elif path not in old:
            change = f"{new[path]!r} is new"
        else:
            change = f"{old[path]!r} is {new[path]!r} now"
        yield key, f"{place}: {key}: {change}"


def _flat(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    if isinstance(value, dict):
        for name, inner in cast("dict[str, Any]", value).items():
            yield from _flat(inner, (*path, name))
    elif isinstance(value, list) and any(isinstance(each, dict) for each in cast("list[object]", value)):
        for number, inner in enumerate(cast("list[object]", value)):
            yield from _flat(inner, (*path, number))
    else:
        yield path, value

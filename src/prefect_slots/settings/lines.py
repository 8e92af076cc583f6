"""Line numbers of the keys of a TOML text, for messages: `tomllib` gives values without places.

The text must be one that `tomllib` has read, so nothing here looks for mistakes. A key inside an inline table or an
array gets the line of the key that holds it.
"""

import re
import tomllib
from typing import Any, TypeAlias

# Place of a value in the parsed document: table names, keys and positions in arrays of tables.
KeyPath: TypeAlias = tuple[str | int, ...]

# Strings come first: a bracket, `=`, `#` or line end inside one is not structure. A multi-line string may end in up to
# five quotes, of which the first two are text.
_TOKEN = re.compile(
    r"""
    (?P<string> \"{3} (?: \\. | (?!\"{3})[^\\] )* \"{3,5}
              | '{3} (?: (?!'{3}). )* '{3,5}
              | \" (?: \\. | [^"\\\n] )* \"
              | ' [^'\n]* ' )
  | (?P<comment> \#[^\n]* )
  | (?P<open> [\[{] )
  | (?P<close> [\]}] )
  | (?P<equals> = )
  | (?P<newline> \n )
  | (?P<other> [^\n\[\]{}="'#]+ )
    """,
    re.VERBOSE | re.DOTALL,
)


def _parts(dotted: str) -> tuple[str, ...]:
    """Split a dotted key, quoted parts included, as TOML itself does."""
    table: Any = tomllib.loads(f"{dotted} = 0")
    parts: list[str] = []
    while isinstance(table, dict):
        ((key, table),) = table.items()
        parts.append(key)
    return tuple(parts)


class _Lines:
    """State of the scan: the table of the present statement, and the first line of each key seen."""

    def __init__(self) -> None:
        self.found: dict[KeyPath, int] = {}
        self.table: KeyPath = ()
        self._last: dict[KeyPath, int] = {}

    def _enter(self, parts: tuple[str, ...], line: int, path: KeyPath = ()) -> KeyPath:
        """Return the path of `parts` below `path`; below an array of tables, of its last one."""
        for part in parts:
            path += (part,)
            self.found.setdefault(path, line)
            if path in self._last:
                path += (self._last[path],)
        return path

    def header(self, text: str, line: int) -> None:
        if text.startswith("[["):
            parts = _parts(text[2:-2])
            array = (*self._enter(parts[:-1], line), parts[-1])
            self.found.setdefault(array, line)
            self._last[array] = self._last.get(array, -1) + 1
            self.table = (*array, self._last[array])
        else:
            self.table = self._enter(_parts(text[1:-1]), line)
        # `[a.b]` before `[a]` is legal; the table's own header is its place.
        self.found[self.table] = line

    def key(self, text: str, line: int) -> None:
        self._enter(_parts(text), line, self.table)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line, counted from 1, of every table and key that `text` writes outside inline values."""
    # `depth` counts open brackets: a line end inside an array does not end the statement.
    lines = _Lines()
    line, depth = 1, 0
    statement, started, in_value = "", 1, False
    for token in _TOKEN.finditer(text.replace("\r\n", "\n")):
        kind, word = token.lastgroup, token.group()
        if not in_value and not statement.strip():
            started = line
        if kind == "newline" and depth == 0:
            if statement.startswith("["):
                lines.header(statement, started)
            statement, in_value = "", False
        elif kind == "equals" and depth == 0 and not in_value:
            lines.key(statement, started)
            statement, in_value = "", True
        elif kind != "comment" and not in_value:
            statement = (statement + word).strip() if kind == "other" else statement + word
        depth += (kind == "open") - (kind == "close")
        line += word.count("\n")
    if statement.startswith("["):
        lines.header(statement, started)
    return lines.found


def line_of(path: KeyPath, lines: dict[KeyPath, int]) -> int | None:
    """Return the line of `path`, else of the nearest table around it; `None` where not even that is written."""
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return None

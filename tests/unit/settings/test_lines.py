"""The line locator against documents written in every style that TOML allows, with known places."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from prefect_slots.settings.lines import KeyPath, key_lines, line_of

DOCUMENT = """\
# [not.a.table]
top = "a [bracket], an = sign, a # sign"

[settings]   # [trailing]
  worker = 'gpu-1'
"state_dir" = "/x"
deep . er."key = odd" = 1
text = \"\"\"
[inside.a.string]
fake = 1
\\\"\"\" still inside
end\"\"\"\" # a fourth quote is text: " [
literal = '''
fake = 2
'''
list = [
  "a", # comment with ] and [fake]
  [1, 2],
]
after = 1
[[gpus.card]]
uuid = "A"
[gpus.card.extra]
x = 1
[[gpus.card]]
uuid = "B"
inline = { uuid = "C", more = { a = 1 } }
[gpus.card.extra]
x = 2
[ "a.b" . c ]
d = 1
"""

EXPECTED: dict[KeyPath, int] = {
    ("top",): 2,
    ("settings",): 4,
    ("settings", "worker"): 5,
    ("settings", "state_dir"): 6,
    ("settings", "deep", "er", "key = odd"): 7,
    ("settings", "text"): 8,
    ("settings", "literal"): 13,
    ("settings", "list"): 16,
    ("settings", "after"): 20,
    ("gpus", "card"): 21,
    ("gpus", "card", 0): 21,
    ("gpus", "card", 0, "uuid"): 22,
    ("gpus", "card", 0, "extra", "x"): 24,
    ("gpus", "card", 1): 25,
    ("gpus", "card", 1, "uuid"): 26,
    ("gpus", "card", 1, "inline"): 27,
    ("gpus", "card", 1, "extra"): 28,
    ("gpus", "card", 1, "extra", "x"): 29,
    ("a.b", "c"): 30,
    ("a.b", "c", "d"): 31,
}


def test_every_key_of_a_document_in_all_styles_is_at_its_line():
    tomllib.loads(DOCUMENT)
    lines = key_lines(DOCUMENT)
    assert {path: lines.get(path) for path in EXPECTED} == EXPECTED


def test_windows_line_ends_count_once():
    lines = key_lines(DOCUMENT.replace("\n", "\r\n"))
    assert {path: lines.get(path) for path in EXPECTED} == EXPECTED


def test_nothing_that_is_text_or_comment_is_taken_for_a_key():
    assert not {part for path in key_lines(DOCUMENT) for part in path} & {"not", "inside", "fake", "trailing"}


def test_a_key_inside_an_inline_value_is_at_the_key_that_holds_it():
    lines = key_lines(DOCUMENT)
    assert line_of(("gpus", "card", 1, "inline", "more", "a"), lines) == 27


def test_a_missing_key_is_at_its_table_and_an_unwritten_table_nowhere():
    lines = key_lines(DOCUMENT)
    assert line_of(("settings", "enforce"), lines) == 4
    assert line_of(("host", "mem"), lines) is None


def test_a_table_written_after_its_child_is_at_its_own_header():
    assert key_lines("[a.b]\nx = 1\n[a]\ny = 1\n")["a",] == 3


def test_a_header_on_the_last_line_without_a_line_end_is_found():
    assert key_lines("x = 1\n[a]")["a",] == 2


KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=6)
SCALARS = st.sampled_from(
    [
        "1",
        "true",
        "1979-05-27",
        "'[x] = #'",
        '"\\" [y] = # "',
        '""',
        '"""\n[z]\nw = 1\n"""',
        "'''\nv = 2\n\n'''",
        "[1, # ]\n 2]",
        "[[\n], { u = ']' }]",
        "{ q = { r = '=' } }",
    ]
)
FILLER = st.sampled_from(["", "# [c] = 'x'", "   ", "\t# '''"])


def quoted(key: str) -> str:
    """Spell a key as a TOML basic string."""
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(
    tables=st.lists(st.tuples(st.booleans(), st.lists(KEYS, max_size=4, unique=True)), max_size=4),
    data=st.data(),
)
def test_a_written_document_is_read_back_with_the_line_each_key_was_written_on(
    tables: list[tuple[bool, list[str]]], data: st.DataObject
):
    text, expected = "", dict[KeyPath, int]()

    def write(statement: str) -> int:
        nonlocal text
        text += "".join(f"{line}\n" for line in data.draw(st.lists(FILLER, max_size=2)))
        at = text.count("\n") + 1
        text += data.draw(st.sampled_from(["", "  "])) + statement + data.draw(st.sampled_from(["", " # ] = "])) + "\n"
        return at

    for number, (is_array, keys) in enumerate(tables):
        name = f"t {number}"
        table: KeyPath = ("root", name, 0) if is_array else ("root", name)
        expected[table] = write(f"[[root.{quoted(name)}]]" if is_array else f"[ root . {quoted(name)} ]")
        for key in keys:
            expected[(*table, key)] = write(f"{quoted(key)} = {data.draw(SCALARS)}")
    document: Any = tomllib.loads(text)
    lines = key_lines(text)
    assert {path: lines.get(path) for path in expected} == expected
    # The only path not written out above is the parent of all tables.
    assert lines.keys() - expected.keys() <= {("root",)} | {path[:2] for path in expected if len(path) > 2}
    assert all(line_of((*path, "absent"), lines) == line for path, line in expected.items())
    assert set(document.get("root", {})) == {f"t {number}" for number in range(len(tables))}

"""Every SQL statement stands in `ledger`: other packages call its named functions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import prefect_slots

SOURCE = Path(prefect_slots.__file__).parent
SQL = re.compile(r"\b(SELECT|INSERT (INTO|OR)|UPDATE \w+ SET|DELETE FROM|PRAGMA|CREATE TABLE|DROP TABLE)\b")


def statements(path: Path) -> list[str]:
    """Return `file:line` of each string constant of a module that contains a verb of SQL."""
    found = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.search(node.value)
    ]
    return [f"{path.relative_to(SOURCE)}:{line}" for line in sorted(found)]


def test_no_statement_stands_outside_the_ledger() -> None:
    modules = sorted(path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] != "ledger")
    assert len(modules) > 100
    assert [place for path in modules for place in statements(path)] == []


def test_the_ledgers_statements_are_seen() -> None:
    assert len([place for path in (SOURCE / "ledger").glob("*.py") for place in statements(path)]) > 40

"""Documents that quote the code: each module and each test that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import prefect_slots

TOP = Path(__file__).parents[2]
SOURCE = Path(prefect_slots.__file__).parent


def test_each_race_names_modules_and_tests_that_exist():
    text = (TOP / "docs/races.md").read_text()
    tests = re.findall(r"`((?:unit|property|integration|support)/[\w/]+\.py)::(\w+)`", text)
    modules = re.findall(r"`([a-z_]+/[a-z_]+)`", text)
    assert len(tests) > 80
    assert len(modules) > 50
    assert [(file, name) for file, name in tests if name not in _text(TOP / "tests" / file)] == []
    assert [module for module in modules if not (SOURCE / f"{module}.py").is_file()] == []


def test_the_glossary_has_each_word_once():
    words = re.findall(r"^\| ([a-z][a-z -]*) \|", (TOP / "docs/glossary.md").read_text(), re.MULTILINE)
    words = [word for word in words if word != "word"]
    assert len(words) > 45
    assert sorted(words) == sorted(set(words))


def test_each_layer_of_the_architecture_is_a_package():
    table = (TOP / "docs/architecture.md").read_text().partition("## Layers")[2]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    there = {path.parent.name for path in SOURCE.glob("*/__init__.py")} | {"errors"}
    assert named == there - {"testing"}


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ""

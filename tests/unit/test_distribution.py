"""Whatever `src` imports is declared with a lower bound, and the two lists of versions fit these bounds."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from tests.support.processes import ROOT

from prefect_slots.doctor.checks import OLDEST_CLIENT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ALL = [Requirement(line) for line in (*PROJECT["dependencies"], *EXTRAS["testing"], *EXTRAS["demo"])]
# pydantic needs exactly one version of it, and none other may be installed.
PART_OF_ANOTHER = {"pydantic-core": "pydantic"}


def imported() -> set[str]:
    """Return the top names of all that the package imports, at any place in a module."""
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found.update(name.name.partition(".")[0] for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"prefect_slots"}


def pinned(name: str) -> dict[str, Version]:
    """Return the versions of a list, which holds nothing else."""
    lines = (ROOT / name).read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line)] == []
    return {canonicalize_name(line.partition("==")[0]): Version(line.partition("==")[2]) for line in lines}


def test_all_that_is_imported_is_declared() -> None:
    homes = packages_distributions()
    used = {canonicalize_name(homes[name][0]) for name in imported() if name in homes}
    declared = {canonicalize_name(one.name) for one in ALL}
    assert {PART_OF_ANOTHER.get(name, name) for name in used} <= declared


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_a_list_fits_the_declared_bounds(name: str) -> None:
    versions = pinned(name)
    assert [str(one) for one in ALL if not one.specifier.contains(versions[canonicalize_name(one.name)])] == []


def test_the_oldest_are_the_lower_bounds() -> None:
    versions = pinned("constraints-oldest.txt")
    for one in ALL:
        lowest = [Version(part.version) for part in one.specifier if part.operator == ">="]
        assert lowest in ([], [versions[canonicalize_name(one.name)]]), one


def test_doctor_knows_the_oldest_prefect() -> None:
    assert pinned("constraints-oldest.txt")["prefect"].release == OLDEST_CLIENT

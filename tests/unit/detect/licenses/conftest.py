"""Vendors' programs for the tests of one folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.license_tools import Tool

MakeTool = Callable[..., Tool]


@pytest.fixture
def tool(tmp_path: Path) -> MakeTool:
    """Make a vendor's program that plays a scene."""
    made: list[Tool] = []

    def make(**scene: Any) -> Tool:
        made.append(Tool(tmp_path / f"tool-{len(made)}", **scene))
        return made[-1]

    return make

"""The Hypothesis profiles of the law tests; `HYPOTHESIS_PROFILE` chooses one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from tests.property.effort import register

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")

register()
settings.load_profile(PROFILE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Fifteen seconds of one idle core are minutes on a busy machine; a soak is to run as long as it takes.
    if PROFILE != "soak":
        for item in items:
            if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(600))

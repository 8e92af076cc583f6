"""Vendors' programs for the tests of how commands are run."""

from __future__ import annotations

from tests.unit.detect.licenses.conftest import tool

__all__ = ["tool"]

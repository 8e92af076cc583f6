"""A machine of its own for every test here."""

from tests.unit.local_machine import machine, outside_any_grant

__all__ = ["machine", "outside_any_grant"]

"""prefect-slots: multi-resource admission for Prefect, with a local ledger that needs no server.

Names are loaded on first use: importing this package imports neither Prefect nor pynvml.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect_slots.pool.pool import SlotPool
    from prefect_slots.requiring import Grant, any_of, current_grant, requires
    from prefect_slots.task_runner.runner import SlotTaskRunner

__all__ = ["Grant", "SlotPool", "SlotTaskRunner", "any_of", "current_grant", "requires"]

_HOMES = {
    "Grant": "prefect_slots.requiring",
    "SlotPool": "prefect_slots.pool.pool",
    "SlotTaskRunner": "prefect_slots.task_runner.runner",
    "any_of": "prefect_slots.requiring",
    "current_grant": "prefect_slots.requiring",
    "requires": "prefect_slots.requiring",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'prefect_slots' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

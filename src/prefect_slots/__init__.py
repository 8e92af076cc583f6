"""prefect-slots: multi-resource admission for Prefect, with a local ledger that needs no server.

Names are loaded on first use: importing this package imports neither Prefect nor pynvml.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect_slots.pool.pool import SlotPool
    from prefect_slots.requiring import Grant, any_of, current_grant, requires
    from prefect_slots.task_runner.runner import SlotTaskRunner

__all__ = ["Grant", "SlotPool", "SlotTaskRunner", "any_of", "current_grant", "requires"]

# The home of all others is `prefect_slots.requiring`.
_HOMES = {"SlotPool": "prefect_slots.pool.pool", "SlotTaskRunner": "prefect_slots.task_runner.runner"}


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "prefect_slots.requiring")), name)
    raise AttributeError(f"module 'prefect_slots' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

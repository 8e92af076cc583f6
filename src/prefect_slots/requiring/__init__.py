"""`requires(...)`: a task's needs, as a decorator, a `with` block or an `async with` block.

decorator     the `requires` object: one declaration, three uses
alternatives  `any_of`: alternatives in order of preference
wrappers      grants around the four kinds of functions, Prefect tasks and flows
grant         a grant as its holder sees it: devices, amounts, environment
device_name   PyTorch's name of a granted GPU in this process, or an error
context       the grant around this thread, task or child process
target        settings and state folder, read once per environment
prefect_run   the Prefect run around a request: its logger, its state, its attempt

Not called `requires`: a submodule of that name would take the place of the name that users import.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect_slots.requiring.alternatives import any_of
    from prefect_slots.requiring.context import current_grant
    from prefect_slots.requiring.decorator import requires
    from prefect_slots.requiring.grant import Device, Grant

__all__ = ["Device", "Grant", "any_of", "current_grant", "requires"]

_HOMES = {
    "Device": "grant",
    "Grant": "grant",
    "any_of": "alternatives",
    "current_grant": "context",
    "requires": "decorator",
}


def __getattr__(name: str) -> object:
    # A pool's task process needs `context` alone, and must not pay for the rest.
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

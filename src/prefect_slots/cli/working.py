"""`worker start`: register this machine, then run `prefect worker start` on it."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_slots.cli.app import Config


def start(
    *flags: Annotated[str, Parameter(allow_leading_hyphen=True, help="Every flag of `prefect worker start`.")],
    config: Config = None,
) -> int:
    """Detect and register this machine, then run `prefect worker start` with the given flags.

    Sets the worker's name and `WORKER_ID` to the machine's name, keeps the limits true while the worker runs, passes
    signals on and ends with the worker's exit code.

    Examples:
        prefect-slots worker start --pool ml-pool

        prefect-slots worker start --pool ml-pool --name gpu-1 --limit 8
    """
    from prefect_slots.settings import load_settings
    from prefect_slots.worker import wrapper

    return wrapper.start(flags, load_settings(config))

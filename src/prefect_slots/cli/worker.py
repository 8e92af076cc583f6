"""`worker start`: registration of this machine, then `prefect worker start` on it."""

from dataclasses import replace
from typing import Annotated, Literal

from cyclopts import Parameter

from prefect_slots.cli.app import Config


def start(
    *flags: Annotated[str, Parameter(allow_leading_hyphen=True, help="Every flag of `prefect worker start`.")],
    enforce: Annotated[
        Literal["warn", "kill"] | None,
        Parameter(
            help="What becomes of a task that uses more memory than it declared: a warning, or, if it is the "
            "command of a `prefect-slots run` or a task of a pool, its end. Default: the setting `enforce`, else warn."
        ),
    ] = None,
    config: Config = None,
) -> int:
    """Detect and register this machine, then run `prefect worker start` with the given flags.

    Sets the worker's name and `WORKER_ID` to the machine's name, keeps the limits true while the worker runs, passes
    signals on and ends with the worker's exit code.

    Examples:
        prefect-slots worker start --pool ml-pool

        prefect-slots worker start --pool ml-pool --name gpu-1 --limit 8

        prefect-slots worker start --pool ml-pool --enforce kill
    """
    # Deferred: the help of this command needs neither.
    from prefect_slots.settings import load_settings
    from prefect_slots.worker import start

    settings = load_settings(config)
    return start.start(flags, settings if enforce is None else replace(settings, enforce=enforce))

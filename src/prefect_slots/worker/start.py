"""`prefect-slots worker start`: register this machine, run `prefect worker start`, refresh the limits meanwhile.

The machine's name becomes `WORKER_ID` and, unless the flags name the worker, its `--name`. This process also reaps the
grants of dead flow runs: on a machine without waiters, no other would.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from rich.console import Console

from prefect_slots.acquire.engine import close_engine
from prefect_slots.settings import Settings
from prefect_slots.worker.refresh import Refresher

# Sent to this process, they are meant for the worker, which ends its flow runs in order.
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def start(flags: Sequence[str], settings: Settings) -> int:
    """Run a worker to its end.

    Args:
        flags: Every flag of `prefect worker start`.
        settings: This machine's settings.

    Returns:
        The worker's exit code, 128 plus the signal's number if one ended it.

    Raises:
        SlotsError: if the machine cannot be registered; no worker is started then.
    """
    # A log is read line by line, and a table's name in brackets is no markup.
    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    refresher = Refresher(settings, given_name(flags), lambda _, text: console.print(f"prefect-slots: {text}"))
    try:
        machine = refresher.begin().result()
        code = _run_worker(flags, {**os.environ, **refresher.env(machine)})
        refresher.end()
        return code
    finally:
        close_engine()


def given_name(flags: Sequence[str]) -> str | None:
    """Return the worker's name that the flags of `prefect worker start` give, if any."""
    for place, flag in enumerate(flags):
        if flag in ("--name", "-n") and place + 1 < len(flags):
            return flags[place + 1]
        if flag.startswith("--name="):
            return flag.removeprefix("--name=")
    return None


def _run_worker(flags: Sequence[str], env: dict[str, str]) -> int:
    name = [] if given_name(flags) else ["--name", env["WORKER_ID"]]
    # In a group of its own, so that a Ctrl-C reaches the worker once, by us, and not its flow runs.
    child = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", *name, *flags], env=env, process_group=0
    )
    before = {number: signal.signal(number, lambda got, _: child.send_signal(got)) for number in _FORWARDED}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    # As shells do: the caller of this program has no other way to see the signal that ended its child.
    return 128 - code if code < 0 else code

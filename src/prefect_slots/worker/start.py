"""`prefect-slots worker start`: register this machine, run `prefect worker start`, keep the limits true meanwhile.

The machine's name becomes `WORKER_ID` and, unless the flags name the worker, its `--name`. The process that runs this
also reaps what dead flow runs held, so that a machine with nobody waiting forgets them too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Console

from prefect_slots.acquire.engine import close_engine
from prefect_slots.worker.refresh import Upkeep

if TYPE_CHECKING:
    from prefect_slots.settings import Settings

_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def start(flags: Sequence[str], settings: Settings) -> int:
    """Run a worker to its end.

    Args:
        flags: Every flag of `prefect worker start`.
        settings: Of this machine.

    Returns:
        The worker's exit code, 128 plus the signal's number if one ended it.

    Raises:
        SlotsError: if the machine cannot be registered; no worker is started then.
    """
    # A log is read line by line, and a table's name in brackets is no markup.
    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    upkeep = Upkeep(settings, given_name(flags), lambda _, text: console.print(f"prefect-slots: {text}"))
    try:
        machine = upkeep.begin().result()
        code = _run_worker(flags, {**os.environ, **upkeep.env(machine)})
        upkeep.end()
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
    before = {number: signal.signal(number, lambda got, _: _pass_on(child, got)) for number in _FORWARDED}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code


def _pass_on(child: subprocess.Popen[bytes], number: int) -> None:
    if child.poll() is None:
        child.send_signal(number)

"""A worker on a registered machine: survey, register, run `prefect worker start`, keep the limits true meanwhile.

The machine's name becomes `WORKER_ID` and, unless the flags name the worker, its `--name`. The process that runs this
also reaps what dead flow runs held, so that a machine with nobody waiting forgets them too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Console

from prefect_slots.acquire.coordination import coordinate
from prefect_slots.acquire.engine import Engine, close_engine, engine
from prefect_slots.acquire.machine import Machine
from prefect_slots.acquire.registering import Registration, register_everywhere
from prefect_slots.acquire.request import Place, machine_at
from prefect_slots.errors import ConfigError, SlotsError
from prefect_slots.requiring.place import place_of

if TYPE_CHECKING:
    from prefect_slots.settings import Settings

_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_log = logging.getLogger("prefect_slots")


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
    coordination = coordinate(settings.coordination, os.environ)
    if coordination.url is None:
        raise ConfigError(
            source="settings",
            key="coordination",
            reason="a worker needs a Prefect server; set PREFECT_API_URL and leave coordination at auto",
        )
    place = place_of(settings, coordination)
    running = engine()
    try:
        done = running.submit(_register(running, place, coordination.url, given_name(flags))).result()
        machine = done.registered.machine or ""
        limits = len(done.limits.entries) if done.limits else 0
        # A log is read line by line, and a table's name in brackets is no markup.
        console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
        console.print(f"prefect-slots: {machine} is registered with {limits} limits on {coordination.url}")
        for finding in done.findings:
            if finding.severity != "info":
                console.print(f"prefect-slots: {finding.severity}: {finding.subject}: {finding.problem}")
        watching = running.submit(_keep_true(running, place, coordination.url))
        code = _run_worker(flags, worker_env(machine, place))
        watching.cancel()
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


def worker_env(machine: str, place: Place) -> dict[str, str]:
    """Return the environment that a worker and its flow runs get, so that all of them mean the same ledger."""
    return {
        **os.environ,
        "WORKER_ID": machine,
        "PREFECT_SLOTS_STATE_DIR": str(place.folder),
        "PREFECT_SLOTS_ENFORCE": place.settings.enforce,
        "PREFECT_API_URL": place.coordination.url or "",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        **({"PREFECT_SLOTS_CONFIG": place.settings.source} if place.settings.source != "defaults" else {}),
    }


async def _register(running: Engine, place: Place, url: str, name: str | None) -> Registration:
    machine = machine_at(running, place)
    done = await register_everywhere(machine.ledger, place.settings, url=url, name=name)
    await machine.use_server(url)
    return done


async def _keep_true(running: Engine, place: Place, url: str) -> None:
    machine = machine_at(running, place)
    reaping = asyncio.get_running_loop().create_task(machine.watch())
    try:
        while True:
            await asyncio.sleep(place.settings.refresh_seconds)
            await _refresh(machine, place, url)
    finally:
        reaping.cancel()


async def _refresh(machine: Machine, place: Place, url: str) -> None:
    try:
        await register_everywhere(machine.ledger, place.settings, url=url)
    except SlotsError as error:
        _log.warning("this machine could not be registered anew; what was registered stays: %s", error)


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

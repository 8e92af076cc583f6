"""`detect`, `register` and `status`: the resources of this machine, their holders and waiters."""

import asyncio
import os
import sys
import time
from collections.abc import Iterable
from contextlib import closing, redirect_stdout
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.live import Live
from rich.text import Text

from prefect_slots.acquire.coordination import coordinate
from prefect_slots.acquire.differences import changes
from prefect_slots.acquire.registration import Registration, register_everywhere, register_here
from prefect_slots.cli import app, tables
from prefect_slots.detect.survey import survey
from prefect_slots.errors import ConfigError
from prefect_slots.ledger import registry, store
from prefect_slots.ledger.folder import find_folder
from prefect_slots.observe.status import machine_status
from prefect_slots.scheduling.decide import decide
from prefect_slots.settings import Settings, load_readable, load_settings
from prefect_slots.usage.holders import holders_now
from prefect_slots.usage.snapshot import others_now

# Often enough for a person who watches, seldom enough for the processes that use the ledger.
_REFRESH_SECONDS = 0.5


def open_ledger(settings: Settings) -> store.Ledger:
    """Return this machine's ledger, opened to be read and written without an owner of its own."""
    folder = find_folder(
        settings.state_dir, os.environ, trusted=settings.trust_file_system, partition=settings.partition
    )
    return store.Ledger(folder, partial(decide, max_overtakes=settings.max_overtakes))


def detect(
    *,
    explain: Annotated[
        bool,
        Parameter(
            negative="", help="Also say where each number comes from, what was left out and why, and what else was odd."
        ),
    ] = False,
    holders: Annotated[
        bool,
        Parameter(
            negative="", help="Also list the hosts, or users, of licence seats in use outside; see show_holders."
        ),
    ] = False,
    config: app.Config = None,
    json: app.Json = False,
) -> None:
    """Show the resources of this machine: found, declared, and offered to tasks. Changes nothing.

    Examples:
        prefect-slots detect --explain

        prefect-slots detect --json | jq .resources

        PREFECT_SLOTS_SHOW_HOLDERS=hosts prefect-slots detect --holders
    """
    settings = load_settings(config)
    if holders and settings.show_holders == "off":
        reason = 'is off, because names are personal data; write "hosts" or "users" to let `detect --holders` show them'
        raise ConfigError(source=settings.source, key="show_holders", reason=reason)
    # Output of another package's detector is no part of the answer that programs read.
    with redirect_stdout(sys.stderr):
        seen = survey(settings.declarations, os.environ, seconds=settings.detect_seconds)
    # Only for cells that were found: a driver that hangs is waited for once.
    others = others_now(settings, os.environ, frozenset(sight.key for sight in seen.sights))
    names = frozenset(resource.name for resource in seen.inventory.resources)
    seats = holders_now(settings, os.environ, names) if holders else ()
    if json:
        app.print_json({
            **({"holders": _dicts(seats)} if holders else {}),
            "resources": _dicts(seen.inventory.resources),
            "unknown": sorted(seen.inventory.unknown | seen.inventory.unknown_cells),
            "cells": _dicts(seen.sights),
            "others": _dicts(others),
            "findings": _dicts(seen.findings),
        })  # fmt: skip
        return
    console = Console()
    console.print(tables.survey_view(seen, others, explain=explain))
    if holders:
        console.print(tables.holders_view(seats, users=settings.show_holders == "users"))
    console.print(tables.findings(seen.findings, explain=explain))


def register(
    *,
    name: Annotated[str | None, Parameter(help="What to call this machine in limit names; then fixed.")] = None,
    rename: Annotated[
        bool, Parameter(negative="", help="Give a registered machine another name; nothing may be held.")
    ] = False,
    yes: Annotated[
        bool, Parameter(negative="", help="Register from another file than before, whatever that takes away.")
    ] = False,
    dry_run: Annotated[bool, Parameter(negative="", help="Only say what would change.")] = False,
    prune: Annotated[
        bool,
        Parameter(
            negative="",
            help="Delete limits of ours that this machine has no more and nobody holds, and machines that are gone for "
            "longer than `forget_after`.",
        ),
    ] = False,
    adopt: Annotated[
        bool, Parameter(negative="", help="Take over limits, or the machine's name, that others made.")
    ] = False,
    config: app.Config = None,
    json: app.Json = False,
) -> None:
    """Detect this machine and make the server's limits equal it; without a server, write the local ledger alone.

    Examples:
        prefect-slots register --dry-run

        prefect-slots register --name gpu-1 --prune

        prefect-slots register --rename --name gpu-2
    """
    settings = load_settings(config)
    coordination = coordinate(settings.coordination, os.environ)
    with closing(open_ledger(settings)) as ledger:
        before = ledger.read(registry.registered)
        with redirect_stdout(sys.stderr):
            if coordination.url is None:
                work = register_here(ledger, settings, name, dry_run=dry_run, yes=yes, rename=rename)
            else:
                work = register_everywhere(
                    ledger,
                    settings,
                    url=coordination.url,
                    name=name,
                    adopt=adopt,
                    prune=prune,
                    dry_run=dry_run,
                    yes=yes,
                    rename=rename,
                )
            done = asyncio.run(work)
    if json:
        app.print_json(registration_data(done))
        return
    console = Console()
    if done.limits is not None:
        console.print(tables.limits_table(done.limits))
        if done.limits.gone:
            console.print(tables.gone_table(done.limits))
    else:
        # Without a server there are no limits to list; the change of the ledger is shown.
        for news in changes(before, done.registered):
            console.print(Text(news))
    console.print(tables.findings(done.findings, explain=False))
    where = f"on {coordination.url}" if coordination.url else "in the local ledger (no Prefect server is configured)"
    verb = "would be registered" if dry_run else "is registered"
    console.print(f"[bold]{done.registered.machine or name or ''}[/bold] {verb} {where}.")


def registration_data(done: Registration) -> dict[str, Any]:
    """Return a registration as plain values."""
    return {
        "machine": done.registered.machine,
        "resources": _dicts(done.registered.resources),
        "limits": None if done.limits is None else asdict(done.limits),
        "findings": _dicts(done.findings),
    }


def _dicts(records: Iterable[Any]) -> list[dict[str, Any]]:
    return [asdict(each) for each in records]


def status(
    *,
    watch: Annotated[bool, Parameter(negative="", help="Show it live until Ctrl-C.")] = False,
    config: app.Config = None,
    json: app.Json = False,
) -> None:
    """Show the holders of each cell, and the waiters with their reasons.

    Examples:
        prefect-slots status --watch

        prefect-slots status --json | jq .waiting
    """
    settings, mistake = load_readable(config)
    if mistake is not None:
        Console(stderr=True).print(Text(f"Warning: {mistake}", style="yellow"), soft_wrap=True)
    with closing(open_ledger(settings)) as ledger:
        if json:
            app.print_json(machine_status(ledger).to_data())
        elif watch:
            _watch(ledger)
        else:
            Console().print(tables.status_view(machine_status(ledger)))


def _watch(ledger: store.Ledger) -> None:
    # Drawn only with new data, and below the prompt: after Ctrl-C the last state stays on the screen.
    with Live(auto_refresh=False, screen=False) as live:
        while True:
            live.update(tables.status_view(machine_status(ledger)), refresh=True)
            time.sleep(_REFRESH_SECONDS)

"""`detect`, `register` and `status`: what this machine has, and who holds it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from prefect_slots.acquire.coordination import Coordination, coordinate
from prefect_slots.acquire.registration import Registration, register_everywhere, register_here
from prefect_slots.cli import tables
from prefect_slots.cli.app import Config, Json, print_json
from prefect_slots.detect.survey import survey
from prefect_slots.ledger import registry
from prefect_slots.ledger.folder import find_folder
from prefect_slots.ledger.store import Ledger
from prefect_slots.observe.status import machine_status
from prefect_slots.scheduling.decide import decide
from prefect_slots.settings import Settings, load_settings
from prefect_slots.usage.snapshot import others_now
from prefect_slots.worker.refresh import changes

_REFRESH_SECONDS = 0.5


def open_ledger(settings: Settings) -> Ledger:
    """Open this machine's ledger without taking part in it."""
    folder = find_folder(settings.state_dir, os.environ)
    return Ledger(folder, partial(decide, max_overtakes=settings.max_overtakes))


def detect(
    *,
    explain: Annotated[
        bool,
        Parameter(
            negative="", help="Also say where each number comes from, what was left out and why, and what else was odd."
        ),
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show what was found on this machine, what was declared, and what tasks may take of both. Changes nothing.

    Examples:
        prefect-slots detect --explain

        prefect-slots detect --json | jq .resources
    """
    settings = load_settings(config)
    with redirect_stdout(sys.stderr):  # what a detector of another package prints is no part of the answer
        seen = survey(settings.declarations, os.environ, seconds=settings.detect_seconds)
    others = others_now(settings, os.environ, frozenset(sight.key for sight in seen.sights))
    if json:
        print_json({
            "resources": [asdict(resource) for resource in seen.inventory.resources],
            "unknown": sorted(seen.inventory.unknown | seen.inventory.unknown_cells),
            "cells": [asdict(sight) for sight in seen.sights],
            "others": [asdict(use) for use in others],
            "findings": [asdict(finding) for finding in seen.findings],
        })  # fmt: skip
        return
    console = Console()
    console.print(tables.survey_view(seen, others, explain=explain))
    console.print(tables.findings(seen.findings, explain=explain))


def register(
    *,
    name: Annotated[str | None, Parameter(help="What to call this machine in limit names; fixed at first use.")] = None,
    dry_run: Annotated[bool, Parameter(negative="", help="Only say what would change.")] = False,
    prune: Annotated[
        bool, Parameter(negative="", help="Delete limits of ours that this machine no longer has and nobody holds.")
    ] = False,
    adopt: Annotated[
        bool, Parameter(negative="", help="Take over limits, or the machine's name, that others made.")
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Detect this machine and make the server's limits equal it; without a server, write the local ledger alone.

    Examples:
        prefect-slots register --dry-run

        prefect-slots register --name gpu-1 --prune
    """
    settings = load_settings(config)
    coordination = coordinate(settings.coordination, os.environ)
    ledger = open_ledger(settings)
    try:
        before = ledger.read(registry.registered)
        with redirect_stdout(sys.stderr):
            done = _register(ledger, settings, coordination, name=name, dry_run=dry_run, prune=prune, adopt=adopt)
    finally:
        ledger.close()
    if json:
        print_json(registration_data(done))
        return
    console = Console()
    if done.limits is not None:
        console.print(tables.limits_table(done.limits))
    else:
        for news in changes(before, done.registered):
            console.print(Text(news))
    console.print(tables.findings(done.findings, explain=False))
    where = f"on {coordination.url}" if coordination.url else "in the local ledger (no Prefect server is configured)"
    verb = "would be registered" if dry_run else "is registered"
    console.print(f"[bold]{done.registered.machine or name or ''}[/bold] {verb} {where}.")


def _register(
    ledger: Ledger,
    settings: Settings,
    coordination: Coordination,
    *,
    name: str | None,
    dry_run: bool,
    prune: bool,
    adopt: bool,
) -> Registration:
    if coordination.url is None:
        return asyncio.run(register_here(ledger, settings, name, dry_run=dry_run))
    work = register_everywhere(
        ledger, settings, url=coordination.url, name=name, adopt=adopt, prune=prune, dry_run=dry_run
    )
    return asyncio.run(work)


def registration_data(done: Registration) -> dict[str, Any]:
    """Return a registration as plain values."""
    return {
        "machine": done.registered.machine,
        "resources": [asdict(resource) for resource in done.registered.resources],
        "limits": None if done.limits is None else done.limits.to_json(),
        "findings": [asdict(finding) for finding in done.findings],
    }


def status(
    *,
    watch: Annotated[bool, Parameter(negative="", help="Show it live until Ctrl-C.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show who holds which cell since when, and who waits for what and why.

    Examples:
        prefect-slots status --watch

        prefect-slots status --json | jq .waiting
    """
    settings = load_settings(config)
    ledger = open_ledger(settings)
    try:
        if json:
            print_json(machine_status(ledger).to_data())
        elif watch:
            _watch(ledger)
        else:
            Console().print(tables.status_view(machine_status(ledger)))
    finally:
        ledger.close()


def _watch(ledger: Ledger) -> None:
    from rich.live import Live

    with Live(auto_refresh=False, screen=False) as live:
        while True:
            live.update(tables.status_view(machine_status(ledger)), refresh=True)
            time.sleep(_REFRESH_SECONDS)

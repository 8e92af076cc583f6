"""`doctor`: what is wrong with this machine, and what to do about it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict

from rich.console import Console

from prefect_slots.acquire.examining import examine
from prefect_slots.cli import tables
from prefect_slots.cli.app import FAILED, Config, Json, print_json
from prefect_slots.observe.facts import Severity
from prefect_slots.observe.findings import Finding, judge


def doctor(*, config: Config = None, json: Json = False) -> int:
    """Look for what is wrong: versions, settings, state folder, ledger, cards, server, limits. Changes nothing.

    Ends with 1 if anything found is an error. Notes and warnings do not count.

    Examples:
        prefect-slots doctor

        prefect-slots doctor --json | jq '.findings[] | select(.severity == "error")'
    """
    findings = judge(asyncio.run(examine(config, os.environ)))
    if json:
        counts = {severity.value: _count(findings, severity) for severity in Severity}
        print_json({"findings": [asdict(finding) for finding in findings], "counts": counts})
    else:
        console = Console()
        console.print(tables.doctor_table(findings))
        console.print(_summary(findings))
    return FAILED if _count(findings, Severity.ERROR) else 0


def _count(findings: tuple[Finding, ...], severity: Severity) -> int:
    return sum(finding.severity is severity for finding in findings)


def _summary(findings: tuple[Finding, ...]) -> str:
    errors, warnings = _count(findings, Severity.ERROR), _count(findings, Severity.WARNING)
    if not errors and not warnings:
        return "Nothing is wrong."
    return f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}."

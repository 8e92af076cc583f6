"""`doctor`: problems of this machine and their remedies."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from prefect_slots.acquire.coordination import coordinate
from prefect_slots.cli import app, tables
from prefect_slots.doctor import checks, examine
from prefect_slots.doctor.facts import Facts
from prefect_slots.doctor.fix import mend
from prefect_slots.errors import SlotsError
from prefect_slots.model import Finding
from prefect_slots.settings import load_readable


def doctor(
    *,
    fix: Annotated[
        bool, Parameter(negative="", help="Give back what the dead have left, and make the server's counts true.")
    ] = False,
    config: app.Config = None,
    json: app.Json = False,
) -> int:
    """Look for what is wrong: versions, settings, state folder, ledger, GPUs, server, limits.

    Changes nothing, unless told to; `--fix` disturbs nothing that is held. Ends with 1 if anything found is an error;
    notes and warnings do not count.

    Examples:
        prefect-slots doctor

        prefect-slots doctor --fix

        prefect-slots doctor --json | jq '.findings[] | select(.severity == "error")'
    """
    facts = asyncio.run(examine.examine(config, os.environ))
    findings = checks.judge(facts)
    mended: tuple[Finding, ...] = ()
    if fix:
        failed = _mend(facts, config)
        # All is examined again: mending one thing may change the findings about another.
        after = (*checks.judge(asyncio.run(examine.examine(config, os.environ))), *failed)
        # A finding counts as mended if nothing is wrong any more with its subject.
        wrong = {finding.subject for finding in after if _is_wrong(finding)}
        mended = tuple(finding for finding in findings if _is_wrong(finding) and finding.subject not in wrong)
        findings = after
    if json:
        # `mended` stands only beside `--fix`, so that programs can tell "nothing mended" from "not tried".
        data = {"findings": findings, "mended": mended} if fix else {"findings": findings}
        counts = {word: _count(findings, severity) for severity, word in tables.DOCTORS_WORDS.items()}
        app.print_json({**{key: [_data(each) for each in value] for key, value in data.items()}, "counts": counts})
    else:
        console = Console()
        console.print(tables.doctor_table(findings))
        for finding in mended:
            console.print(Text(f"Mended: {finding.subject}: {finding.problem}"), soft_wrap=True)
        console.print(_summary(findings))
    return app.FAILED if _count(findings, "error") else 0


def _mend(facts: Facts, config: Path | None) -> tuple[Finding, ...]:
    """Mend the machine; return a finding if that failed."""
    if facts.ledger is None or facts.folder is None:
        return ()
    try:
        # A wrong line must not keep the slots of the dead from being given back.
        settings, _ = load_readable(config)
        # Without the name's claim, another machine's limits could be changed.
        url = coordinate(settings.coordination, os.environ).url if facts.claimed else None
        asyncio.run(mend(Path(facts.folder.path), settings, url, facts.mirrors))
    except SlotsError as error:
        return (Finding(subject="mending", severity="error", problem=str(error), remedy="see the other findings"),)
    return ()


# Programs know the keys of a doctor's finding by other names than those of detection's.
def _data(finding: Finding) -> dict[str, str]:
    word = tables.DOCTORS_WORDS[finding.severity]
    return {"about": finding.subject, "severity": word, "found": finding.problem, "remedy": finding.remedy}


def _is_wrong(finding: Finding) -> bool:
    return finding.severity in ("warning", "error")


def _count(findings: tuple[Finding, ...], severity: str) -> int:
    return sum(finding.severity == severity for finding in findings)


def _summary(findings: tuple[Finding, ...]) -> str:
    errors, warnings = _count(findings, "error"), _count(findings, "warning")
    if not errors and not warnings:
        return "Nothing is wrong."
    return f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}."

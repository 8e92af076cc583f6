"""Renderables of `rich` for cells, holders, waiters, limits and findings, made of records that others have read."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from prefect_slots.detect.detector import Sight
from prefect_slots.detect.survey import Survey
from prefect_slots.limits.registration import RegistrationReport
from prefect_slots.model import GPU_MEM, MAX_AMOUNT, MIB, SEATS, Finding, Inventory, format_amount
from prefect_slots.observe.reason import ago
from prefect_slots.observe.status import CellStatus, Holder, MachineStatus
from prefect_slots.usage.holders import SeatHolder
from prefect_slots.usage.snapshot import OthersUse

# Identities of NVIDIA's GPUs and MIG instances: too long for a column, and mostly told apart by their first letters.
_UUID = re.compile(r"(GPU|MIG)(-[0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# `dim` for remarks: a healthy machine's page must not look like a list of warnings.
_STYLES = {"ok": "green", "info": "dim", "warning": "yellow", "error": "bold red"}
# `doctor` says "note" where `detect` says "info"; programs read both, so that neither can change.
DOCTORS_WORDS = {"ok": "ok", "info": "note", "warning": "warning", "error": "error"}


def titled(title: str, *columns: Column | str) -> Table:
    """Return an empty table with its title on the left."""
    return Table(*columns, title=title, title_justify="left")


def number(header: str, **options: Any) -> Column:
    """Return a column of numbers or durations, aligned on the right."""
    return Column(header, justify="right", **options)


def folded(header: str, **options: Any) -> Column:
    """Return a column of text that is broken into lines, never cut."""
    return Column(header, overflow="fold", **options)


def amount(value: int, unit: str) -> str:
    """Return an amount in words: `"16GiB"`, `"1 seat"`; the largest amount of all stands for no limit."""
    # Detection counts an unlimited license as the largest number that a limit can have.
    if value == MAX_AMOUNT:
        return "unlimited"
    text = format_amount(value, unit)
    return text.removesuffix("s") if value == 1 and unit != MIB else text


def place(resource: str, number: int, cells: int) -> str:
    """Return the name of a cell: `"gpu_mem 1"`, or the resource alone where it has one cell."""
    return f"{resource} {number}" if cells > 1 or resource == "gpu_mem" else resource


def survey_view(survey: Survey, others: Iterable[OthersUse], *, explain: bool) -> Group:
    """Return each cell's found, declared and offered amount and its foreign use; with `explain` also the reasons."""
    used = {(use.resource, use.key): use for use in others}
    table = titled(
        "What this machine has",
        Column("resource", no_wrap=True),
        Column("cell", overflow="fold", min_width=len("GPU-00000000")),
        *(number(name, no_wrap=True) for name in ("found", "declared", "offered", "others use")),
    )
    # Beside the table, not in it: a path would be broken into a narrow column.
    reasons = Table.grid(Column(no_wrap=True, style="bold"), Column(overflow="fold"), padding=(0, 1))
    counts = Counter(sight.resource for sight in survey.sights)
    keys = [sight.key for sight in survey.sights]
    shown = ""
    for sight in survey.sights:
        only = counts[sight.resource] == 1 and sight.resource != GPU_MEM
        key = "" if only else _brief(sight.key, keys)
        found, declared = ("" if n is None else amount(n, sight.unit) for n in (sight.found, sight.declared))
        name, shown = "" if sight.resource == shown else sight.resource, sight.resource
        # As texts: rich would take "[gpus]" in a reason for a style.
        use = used.get((sight.resource, sight.key))
        why = "; ".join(filter(None, (sight.why, use.why if use is not None else "")))
        cell = Text(f"{key} {sight.label}".strip())
        table.add_row(Text(name), cell, Text(found), Text(declared), _offered(sight, survey.inventory), _used(use))
        reasons.add_row(Text(key or sight.resource), Text(why))
    # A resource that could not be read has no cells to show, and must not look like one that the machine lacks.
    for name in sorted(survey.inventory.unknown):
        cell = "what else there may be" if name in survey.inventory else ""
        table.add_row(Text(name), Text(cell), "", "", Text("unknown", style="yellow"), "")
        reasons.add_row(Text(name), Text("unknown: what was registered before stays"))
    return Group(table, Text("Where the numbers come from", style="italic"), reasons) if explain else Group(table)


def holders_view(holders: Iterable[SeatHolder], *, users: bool) -> RenderableType:
    """Return the holders of license seats outside, by license."""
    names = (folded("user"),) if users else ()
    table = titled("Seats in use outside", Column("licence", no_wrap=True), folded("host"), *names, number("seats"))
    for holder in holders:
        name = (Text(holder.user or ""),) if users else ()
        stays = f", lingering {ago(0, holder.lingering)}" if holder.lingering else ""
        table.add_row(
            Text(holder.resource), Text((holder.host or "not told for certain") + stays), *name, str(holder.seats)
        )
    return table if table.row_count else Text("nobody outside holds a seat, as far as the servers tell", style="dim")


def _brief(key: str, keys: list[str]) -> str:
    """Return the beginning of a UUID, which `[gpus] exclude` understands, if it names one GPU only."""
    beginning = key[:12]
    unique = _UUID.fullmatch(key) and sum(other.startswith(beginning) for other in keys) == 1
    return beginning if unique else key


def _offered(sight: Sight, inventory: Inventory) -> Text:
    """Return the amount offered to tasks; yellow if it is unknown, or if more was declared than was found."""
    if sight.offered is None:
        unknown = sight.key in inventory.unknown_cells
        return Text("unknown", style="yellow") if unknown else Text("nothing", style="dim")
    too_much = sight.declared is not None and sight.found is not None and sight.declared > sight.found
    return Text(amount(sight.offered, sight.unit), style="yellow" if too_much else "")


def _used(use: OthersUse | None) -> Text:
    """Return the foreign use of a cell; yellow if it is out of date or unknown."""
    if use is None or (use.used == 0 and not use.why):
        return Text("")
    return Text("unknown" if use.used is None else amount(use.used, use.unit), style="yellow" if use.why else "")


def findings(found: Iterable[Finding], *, explain: bool) -> Group:
    """Return findings as lines; `info` ones only with `explain`."""
    lines: list[RenderableType] = []
    for finding in found:
        if finding.severity == "info" and not explain:
            continue
        style = _STYLES.get(finding.severity, "")
        remedy = f" {finding.remedy[0].upper()}{finding.remedy[1:]}." if finding.remedy else ""
        lines.append(Text(f"{finding.severity}: {finding.subject}: {finding.problem}.{remedy}", style=style))
    return Group(*lines)


def doctor_table(found: Iterable[Finding]) -> Table:
    """Return a doctor's findings with their remedies."""
    table = titled("What was looked at", "", folded("about"), folded("found", ratio=3), folded("remedy", ratio=2))
    for finding in found:
        word = Text(DOCTORS_WORDS[finding.severity], style=_STYLES[finding.severity])
        table.add_row(word, *map(Text, (finding.subject, finding.problem, finding.remedy)))
    return table


def limits_table(report: RegistrationReport) -> Table:
    """Return the changes that a registration made, or would make, to the server's limits."""
    table = titled("Limits on the server", "limit", number("was"), number("is"), "", number("held"))
    for entry in report.entries:
        old, new = ("" if slots is None else str(slots) for slots in (entry.old, entry.new))
        table.add_row(entry.name, old, new, str(entry.action), str(entry.held or ""))
    return table


def gone_table(report: RegistrationReport) -> Table:
    """Return the machines without a sign of life that a registration removed, or would remove."""
    title = "Gone machines, to be removed" if report.dry_run else "Gone machines, removed"
    table = titled(title, "machine", folded("host", ratio=1), number("silent for"), number("limits"))
    for machine in sorted(report.gone, key=lambda each: -each.silent_seconds):
        days = f"{machine.silent_seconds / 86400:.1f} days"
        table.add_row(machine.machine, machine.host, days, str(len(machine.limits)))
    return table


def status_view(status: MachineStatus, now: float | None = None) -> Group:
    """Return a machine's cells with their holders, then the waiters with their reasons."""
    # The number of a cell is noise for a resource that has only one.
    counts = Counter(cell.resource for cell in status.cells)
    numbers = map(number, ("held", "free", "of"))
    others, by = number("others", overflow="fold"), folded("by", ratio=1)
    table = titled(status.machine or "not registered", "cell", *numbers, others, by, number("since"))
    for cell in status.cells:
        name = place(cell.resource, cell.number, counts[cell.resource])
        gone = " (gone)" if not cell.present else " (lost)" if cell.lost else ""
        amounts = (amount(n, cell.unit) for n in (cell.held, cell.free, cell.capacity))
        first = (name + gone, *amounts, _others(cell, now))
        for holder in cell.holders:
            table.add_row(*first, _holder(holder, cell), ago(holder.since, now))
            # Further holders of the same cell stand below the first, without its numbers.
            first = ("",) * len(first)
        if not cell.holders:
            table.add_row(*first)
    lowered = [Text(str(each), style="yellow") for each in status.changed]
    if not status.waiting:
        return Group(table, *lowered, Text("nobody waits", style="dim"))
    title = f"{len(status.waiting)} waiting"
    waiting = titled(title, folded("who", ratio=1), number("for"), folded("why", ratio=2))
    for waiter in status.waiting:
        waiting.add_row(waiter.label, ago(waiter.since, now), waiter.reason)
    return Group(table, *lowered, waiting)


def _others(cell: CellStatus, now: float | None) -> Text:
    """Return the foreign use of a cell: yellow with its age if it is out of date, of a license with its witness."""
    used = amount(cell.foreign, cell.unit) if cell.foreign else ""
    if cell.outside is None:
        return Text(used)
    if not cell.outside.why:
        # Seats are looked up once a minute or so, and several servers may tell of one license.
        if cell.unit != SEATS or cell.outside.seen_at is None:
            return Text(used)
        return Text(f"{used or amount(0, cell.unit)} ({cell.origin}, {ago(cell.outside.seen_at, now)} ago)")
    if cell.outside.seen_at is None:
        return Text(f"{used} and unknown" if used else "unknown", style="yellow")
    return Text(f"{used or amount(0, cell.unit)}, {ago(cell.outside.seen_at, now)} ago", style="yellow")


def _holder(holder: Holder, cell: CellStatus) -> Text:
    peak = "" if holder.peak is None else f", used at most {amount(holder.peak, cell.unit)}"
    text = f"{holder.label} [{amount(holder.amount, cell.unit)}{peak}]"
    return Text(f"  draws: {text}", style="dim") if holder.drawn else Text(text)

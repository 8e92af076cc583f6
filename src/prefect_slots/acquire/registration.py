"""Registration: a survey of the machine, written to the ledger and made equal by the server's limits.

The one path that `register`, the worker and first use share. A machine keeps the name and the configuration file of its
first registration until a person says otherwise.
A license server or a driver may take minutes: the survey runs beside the loop, which renews leases meanwhile, and no
exit waits for it.
"""

import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prefect_slots.acquire.differences import losses
from prefect_slots.acquire.meeting import meet
from prefect_slots.detect.licenses.client import DESK
from prefect_slots.detect.survey import Survey, survey
from prefect_slots.errors import ConfigDiffers, NameDiffers, RenameRefused
from prefect_slots.ledger import queries, registry, store, transaction
from prefect_slots.limits.plan import Action
from prefect_slots.model import GPU_MEM, Finding, Scope, Stock, format_amount, sanitise_machine_name
from prefect_slots.settings import Settings
from prefect_slots.system import clock, processes, threads
from prefect_slots.usage import foreign, licenses

if TYPE_CHECKING:
    from prefect_slots.limits.client import Database
    from prefect_slots.limits.registration import RegistrationReport

DAY_SECONDS = 86400
_log = logging.getLogger("prefect_slots")


@dataclass(frozen=True)
class Registration:
    """The result of a registration.

    Attributes:
        registered: The machine as the ledger now has it.
        findings: Remarks of the survey.
        limits: Changes on the server; `None` without one.
        database: The kind of the server's database; `None` without one.
    """

    registered: registry.Registered
    findings: tuple[Finding, ...]
    limits: "RegistrationReport | None" = None
    database: "Database | None" = None


def machine_name(settings: Settings, name: str | None = None) -> str:
    """Return a name for a machine that has none yet: `name`, else the setting, else the host's with the partition."""
    host = f"{socket.gethostname()}-{settings.partition}" if settings.partition else socket.gethostname()
    return sanitise_machine_name(name or settings.worker or host)


async def look_around(settings: Settings) -> tuple[Survey, tuple[licenses.SeatsSeen, ...]]:
    """Survey this machine beside the running loop; return also the use of its licenses that the servers told in it."""

    def look() -> tuple[Survey, tuple[licenses.SeatsSeen, ...]]:
        env = dict(os.environ)
        seen = survey(settings.declarations, env, seconds=settings.detect_seconds)
        # No further question: these are the answers of the survey, which the desk has kept.
        told = licenses.ask_servers(settings.declarations.license_servers, env, DESK)
        return seen, tuple(seats for seats in told if seats.feature is not None)

    return await threads.await_in_thread(look, "prefect-slots survey")


def _write(
    tx: transaction.Transaction, seen: Survey, seats: tuple[licenses.SeatsSeen, ...], settings: Settings
) -> tuple[registry.Registered, tuple[Finding, ...]]:
    registry.register(tx, seen.inventory)
    registry.note_config(tx, settings.source, settings.digest)
    # Case C01: a number of seats without their use would be granted in full until somebody looks.
    licenses.note_seats(seats, tx, foreign.Fleet(counted={}), processes.Users(), settings.stale_after)
    return registry.registered(tx), held_in_vain(tx)


async def register_here(
    ledger: store.Ledger,
    settings: Settings,
    name: str | None = None,
    *,
    dry_run: bool = False,
    yes: bool = False,
    rename: bool = False,
    first_use: bool = False,
) -> Registration:
    """Survey this machine and write its resources into the ledger, without a server.

    Args:
        ledger: The machine's ledger.
        settings: Its settings.
        name: Its name, if one is given.
        dry_run: Write nothing.
        yes: Register from another configuration file than before, whatever that takes away.
        rename: Give the machine the name that is given, if it has another one.
        first_use: By a first request: the name is not fixed yet.

    Raises:
        NameDiffers, RenameRefused, ConfigDiffers: nothing was written.
    """
    wanted = _agreed_name(ledger, settings, name, rename=rename)
    seen, seats = await look_around(settings)
    beside = meet(ledger, settings, gpus_of(seen), dry_run=dry_run)
    differs = _compare_files(ledger, settings, seen, told=yes or dry_run)

    # One transaction: a machine without resources would refuse every request as unknown.
    def write(tx: transaction.Transaction) -> tuple[registry.Registered, tuple[Finding, ...]]:
        if rename:
            _rename(tx, wanted)
        registry.name_machine(tx, wanted, fix=not first_use)
        return _write(tx, seen, seats, settings)

    registered, held = ledger.rehearse(write) if dry_run else ledger.transact(write)
    return Registration(registered, (*seen.findings, *beside, *held, *differs))


async def register_everywhere(
    ledger: store.Ledger,
    settings: Settings,
    *,
    url: str,
    name: str | None = None,
    heartbeat: float = 0.0,
    database: "Database | None" = None,
    adopt: bool = False,
    prune: bool = False,
    dry_run: bool = False,
    yes: bool = False,
    rename: bool = False,
) -> Registration:
    """Survey this machine, write the ledger, and make the server's limits equal it; otherwise as `register_here`.

    The machine takes its name only once the server has it, so that a name another ledger has claimed can be changed.

    Args:
        ledger: The ledger of this machine.
        settings: Its settings.
        url: The Prefect API's address.
        name: Its name if it has none yet.
        heartbeat: Seconds until the next registration by the same worker; 0 if none follows.
        database: The kind of the server's database if it was asked lately; a refresh saves this request, which pays for
            its heartbeat.
        adopt: As in `limits.registration.register`.
        prune: The same.
        dry_run: The same.
        yes: As in `register_here`.
        rename: The same.

    Raises:
        NameDiffers, RenameRefused, ConfigDiffers: nothing was written.
        NameTaken, GpuTaken, LimitConflict: if another ledger or person has the machine's name, a GPU or a limit, unless
            `adopt`.
        ServerUnreachable, ServerRefused: if the server does not take part.
    """
    machine = _agreed_name(ledger, settings, name, rename=rename)
    seen, seats = await look_around(settings)
    differs = _compare_files(ledger, settings, seen, told=yes or dry_run)
    beside = meet(ledger, settings, gpus_of(seen), dry_run=dry_run)
    write = ledger.rehearse if dry_run else ledger.transact
    registered, held = write(lambda tx: _write(tx, seen, seats, settings))
    old = registered.machine
    stocks = own_stocks(registered, seen, settings.declarations.source)
    report, database = await _equal_server(
        ledger,
        registered,
        settings,
        machine,
        url,
        heartbeat=heartbeat,
        database=database,
        adopt=adopt,
        prune=prune,
        dry_run=dry_run,
        rename=rename,
        stocks=stocks,
    )
    if rename and old not in (None, machine) and not dry_run:
        # The limits of the old name are this ledger's by their mirrors.
        report, database = await _equal_server(
            ledger, registered, settings, machine, url, prune=True, former_name=old, stocks=stocks
        )
    if not dry_run:
        registered = ledger.read(registry.registered)
    return Registration(
        registered, (*seen.findings, *beside, *held, *differs, *_limit_findings(report)), report, database
    )


def _agreed_name(ledger: store.Ledger, settings: Settings, name: str | None, *, rename: bool) -> str:
    """Return the machine's name: the registered one, or the given one where that is allowed.

    Raises:
        NameDiffers: another one is given, and no renaming is asked for.
        RenameRefused: it is asked for, and the machine holds something.
    """
    known, fixed, held = ledger.read(lambda tx: (tx.meta("machine"), registry.is_named(tx), registry.in_use(tx)))
    given = name or settings.worker
    wanted = machine_name(settings, name)
    # A name once given stays: limits and leases of other processes carry it.
    if known is None or not fixed or wanted == known:
        return wanted
    if given is None:
        return known
    if not rename:
        raise NameDiffers(registered=known, wanted=wanted)
    if held:
        raise RenameRefused(machine=known, held=held)
    return wanted


def _rename(tx: transaction.Transaction, name: str) -> None:
    # Again, in the transaction that renames: a grant of the meantime has leases under the old name.
    known, held = tx.meta("machine"), registry.in_use(tx)
    if known not in (None, name):
        if held:
            raise RenameRefused(machine=known, held=held)
        registry.rename_machine(tx, name)


def _compare_files(ledger: store.Ledger, settings: Settings, seen: Survey, *, told: bool) -> tuple[Finding, ...]:
    """Return a finding if the machine was registered from another file, and registering from this one takes away.

    Raises:
        ConfigDiffers: instead of the finding, unless `told`, or the file was named.
    """
    known, before = ledger.read(lambda tx: (registry.config(tx), registry.registered(tx)))
    if known is None or known[0] == settings.source or known[1] == settings.digest:
        return ()
    lost = losses(before, ledger.rehearse(lambda tx: registry.register(tx, seen.inventory)))
    if not lost:
        return ()
    differs = ConfigDiffers(registered_from=known[0], read=settings.source, differences=lost)
    if not told and not settings.named:
        raise differs
    problem = f"it was {known[0]} at the last registration and is {settings.source} now: {'; '.join(lost)}"
    return (Finding(subject="configuration", problem=problem, remedy="", severity="info"),)


async def restore(ledger: store.Ledger, settings: Settings, url: str) -> None:
    """Make the server's limits equal what the ledger has, without a survey: what was deleted there is made again.

    Raises:
        NameTaken, LimitConflict, ServerUnreachable, ServerRefused: as `register_everywhere`.
    """
    registered = ledger.read(registry.registered)
    if registered.machine is not None:
        report, _ = await _equal_server(ledger, registered, settings, registered.machine, url)
        for finding in _limit_findings(report):
            _log.warning("%s %s", finding.subject, finding.problem)


async def _equal_server(
    ledger: store.Ledger,
    registered: registry.Registered,
    settings: Settings,
    machine: str,
    url: str,
    *,
    heartbeat: float = 0.0,
    database: "Database | None" = None,
    adopt: bool = False,
    prune: bool = False,
    dry_run: bool = False,
    rename: bool = False,
    former_name: str | None = None,
    stocks: tuple[Stock, ...] | None = None,
) -> "tuple[RegistrationReport, Database]":
    from prefect_slots.limits import claim, client, registration

    server = await client.Server.open(url, database=database)
    try:
        report = await registration.register(
            server,
            machine=machine,
            ledger_id=ledger.id,
            host=socket.gethostname(),
            stocks=registered.stocks if stocks is None else stocks,
            cards=cards(registered),
            boot=clock.boot_id(),
            heartbeat=heartbeat,
            adopt=adopt,
            prune=prune,
            forget_after=settings.forget_after * DAY_SECONDS,
            dry_run=dry_run,
        )
        database = await server.database()
        if former_name is not None:
            await claim.delete_claim(server, claim.variable_name(former_name))
    finally:
        await server.close()
    if not dry_run:
        # One transaction: with a name and no claim, grants would fail while the server is away (rule 20).
        def write(tx: transaction.Transaction) -> None:
            if rename:
                _rename(tx, machine)
            registry.name_machine(tx, machine)
            registry.note_claim(tx, server.url, database)
            if stocks is not None:
                registry.note_fleet(tx, report.fleet)

        ledger.transact(write)
    return report, database


def gpus_of(seen: Survey) -> tuple[str, ...]:
    """Return the keys of the GPUs that a survey found."""
    return tuple(cell.key for cell in seen.inventory[GPU_MEM].cells) if GPU_MEM in seen.inventory else ()


def held_in_vain(tx: transaction.Transaction) -> tuple[Finding, ...]:
    """Return a finding for each holder of a cell that is broken or gone."""
    # A draw counts within its parent grant, so only grants of their own right are named.
    held = [part for part in queries.holdings(tx) if part.source is None]
    return tuple(
        Finding(
            subject=cell.key,
            problem=f"is {'broken' if cell.present else 'gone'}, and '{part.label}' (process {part.shown_pid}) holds "
            f"{format_amount(part.declared, resource.unit)} of it",
            remedy="end that task; nothing more is granted there",
            severity="error",
        )
        for resource in registry.registered(tx).resources
        for cell in resource.cells
        for part in held
        if part.cell == cell.id and (cell.lost or not cell.present)
    )


def own_stocks(registered: registry.Registered, seen: Survey, source: str) -> tuple[Stock, ...]:
    """Return the machine's stocks with its own numbers of the fleet's resources, whatever number is in force."""
    found = {resource.name: resource for resource in seen.inventory.resources if resource.scope is Scope.FLEET}
    stocks: list[Stock] = []
    for stock in registered.stocks:
        own = found.get(stock.resource)
        if own is not None and len(own.cells) == len(stock.cells) == 1:
            declared = own.origin == source
            cells = ((stock.cells[0][0], own.cells[0].capacity),)
            stocks.append(replace(stock, cells=cells, declared=declared))
        else:
            stocks.append(stock)
    return tuple(stocks)


def _limit_findings(report: "RegistrationReport") -> Iterator[Finding]:
    """Yield a warning for each limit that others changed on the server, or of which the fleet has another number."""
    for name, words in sorted(report.notes.items()):
        problem, _, remedy = words.partition("; ")
        yield Finding(subject=f"limit {name}", problem=problem, remedy=remedy, severity="warning")
    for entry in report.entries:
        if entry.problem and entry.action is not Action.CONFLICT:
            problem, _, remedy = entry.problem.partition("; ")
            yield Finding(subject=f"limit {entry.name}", problem=problem, remedy=remedy, severity="warning")


def cards(registered: registry.Registered) -> dict[int, str]:
    """Return the UUID of each GPU by its number."""
    return {cell.id.number: cell.key for cell in registered.cells(GPU_MEM)}

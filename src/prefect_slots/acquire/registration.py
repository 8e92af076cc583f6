"""Registration: a survey of the machine, written to the ledger and made equal by the server's limits.

The one path that `register`, the worker and first use share. A machine keeps the name that its ledger registered first.
A license server or a driver may take minutes: the survey runs beside the loop, which renews leases meanwhile, and no
exit waits for it.
"""

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_slots.acquire.meeting import meet
from prefect_slots.detect.licenses.client import DESK
from prefect_slots.detect.survey import Survey, survey
from prefect_slots.ledger import queries, registry, store, transaction
from prefect_slots.model import GPU_MEM, Finding, format_amount, sanitise_machine_name
from prefect_slots.settings import Settings
from prefect_slots.system import clock, processes, threads
from prefect_slots.usage import foreign, licenses

if TYPE_CHECKING:
    from prefect_slots.limits.client import Database
    from prefect_slots.limits.registration import RegistrationReport

DAY_SECONDS = 86400


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
    # Case C01: a number of seats without their use would be granted in full until somebody looks.
    licenses.note_seats(seats, tx, foreign.Fleet(counted={}), processes.Users(), settings.stale_after)
    return registry.registered(tx), held_in_vain(tx)


async def register_here(
    ledger: store.Ledger, settings: Settings, name: str | None = None, *, dry_run: bool = False
) -> Registration:
    """Survey this machine and write its resources into the ledger, without a server."""
    wanted = machine_name(settings, name)
    seen, seats = await look_around(settings)
    beside = meet(ledger, settings, gpus_of(seen), dry_run=dry_run)

    # One transaction: a machine without resources would refuse every request as unknown.
    def write(tx: transaction.Transaction) -> tuple[registry.Registered, tuple[Finding, ...]]:
        registry.name_machine(tx, wanted)
        return _write(tx, seen, seats, settings)

    registered, held = ledger.rehearse(write) if dry_run else ledger.transact(write)
    return Registration(registered, (*seen.findings, *beside, *held, *_name_finding(registered.machine, wanted)))


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
) -> Registration:
    """Survey this machine, write the ledger, and make the server's limits equal it.

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

    Raises:
        NameTaken, GpuTaken, LimitConflict: if another ledger or person has the machine's name, a GPU or a limit, unless
            `adopt`.
        ServerUnreachable, ServerRefused: if the server does not take part.
    """
    from prefect_slots.limits import client, registration

    wanted = machine_name(settings, name)
    seen, seats = await look_around(settings)
    beside = meet(ledger, settings, gpus_of(seen), dry_run=dry_run)
    write = ledger.rehearse if dry_run else ledger.transact
    registered, held = write(lambda tx: _write(tx, seen, seats, settings))
    # A name once given stays: limits and leases of other processes carry it.
    machine = registered.machine or wanted
    server = await client.Server.open(url, database=database)
    try:
        report = await registration.register(
            server,
            machine=machine,
            ledger_id=ledger.id,
            host=socket.gethostname(),
            stocks=registered.stocks,
            cards=cards(registered),
            boot=clock.boot_id(),
            heartbeat=heartbeat,
            adopt=adopt,
            prune=prune,
            forget_after=settings.forget_after * DAY_SECONDS,
            dry_run=dry_run,
        )
        database = await server.database()
    finally:
        await server.close()
    if not dry_run:
        # One transaction: with a name and no claim, grants would fail while the server is away (rule 20).
        ledger.transact(lambda tx: (registry.name_machine(tx, machine), registry.note_claim(tx, server.url, database)))
        registered = ledger.read(registry.registered)
    return Registration(registered, (*seen.findings, *beside, *held, *_name_finding(machine, wanted)), report, database)


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


def cards(registered: registry.Registered) -> dict[int, str]:
    """Return the UUID of each GPU by its number."""
    return {cell.id.number: cell.key for cell in registered.cells(GPU_MEM)}


def _name_finding(machine: str | None, wanted: str) -> tuple[Finding, ...]:
    if machine == wanted:
        return ()
    problem = f"this ledger is registered as '{machine}', so that name is used and not '{wanted}'"
    remedy = "give a second machine a state folder of its own, or leave the name out"
    return (Finding(subject=wanted, problem=problem, remedy=remedy, severity="info"),)

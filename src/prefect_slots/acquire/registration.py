"""Registration: a survey of the machine, written to the ledger and made equal by the server's limits.

The one path that `register`, the worker and first use share. A machine keeps the name that its ledger registered first.
A license server or a driver may take minutes: the survey runs beside the loop, which renews leases meanwhile, and no
exit waits for it.
"""

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_slots.detect.licenses.client import DESK
from prefect_slots.detect.survey import Survey, survey
from prefect_slots.ledger import queries, registry, store, transaction
from prefect_slots.model import GPU_MEM, Finding, format_amount, sanitise_machine_name
from prefect_slots.settings import Settings
from prefect_slots.system import processes, threads
from prefect_slots.usage import foreign, licenses

if TYPE_CHECKING:
    from prefect_slots.limits.registration import RegistrationReport


@dataclass(frozen=True)
class Registration:
    """The result of a registration.

    Attributes:
        registered: The machine as the ledger now has it.
        findings: Remarks of the survey.
        limits: Changes on the server; `None` without one.
    """

    registered: registry.Registered
    findings: tuple[Finding, ...]
    limits: "RegistrationReport | None" = None


def machine_name(settings: Settings, name: str | None = None) -> str:
    """Return a name for a machine that has none yet: `name`, else the setting, else the host name."""
    return sanitise_machine_name(name or settings.worker or socket.gethostname())


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

    # One transaction: a machine without resources would refuse every request as unknown.
    def write(tx: transaction.Transaction) -> tuple[registry.Registered, tuple[Finding, ...]]:
        registry.name_machine(tx, wanted)
        return _write(tx, seen, seats, settings)

    registered, held = ledger.rehearse(write) if dry_run else ledger.transact(write)
    return Registration(registered, (*seen.findings, *held, *_name_finding(registered.machine, wanted)))


async def register_everywhere(
    ledger: store.Ledger,
    settings: Settings,
    *,
    url: str,
    name: str | None = None,
    adopt: bool = False,
    prune: bool = False,
    dry_run: bool = False,
) -> Registration:
    """Survey this machine, write the ledger, and make the server's limits equal it.

    The machine takes its name only once the server has it, so that a name another ledger has claimed can be changed.

    Raises:
        NameTaken, LimitConflict: if another ledger or person has the machine's name or a limit's, unless `adopt`.
        ServerUnreachable, ServerRefused: if the server does not take part.
    """
    from prefect_slots.limits import client, registration

    wanted = machine_name(settings, name)
    seen, seats = await look_around(settings)
    write = ledger.rehearse if dry_run else ledger.transact
    registered, held = write(lambda tx: _write(tx, seen, seats, settings))
    # A name once given stays: limits and leases of other processes carry it.
    machine = registered.machine or wanted
    server = await client.Server.open(url)
    try:
        report = await registration.register(
            server,
            machine=machine,
            ledger_id=ledger.id,
            host=socket.gethostname(),
            stocks=registered.stocks,
            cards=cards(registered),
            adopt=adopt,
            prune=prune,
            dry_run=dry_run,
        )
        database = await server.database()
    finally:
        await server.close()
    if not dry_run:
        # One transaction: with a name and no claim, grants would fail while the server is away (rule 20).
        ledger.transact(lambda tx: (registry.name_machine(tx, machine), registry.note_claim(tx, server.url, database)))
        registered = ledger.read(registry.registered)
    return Registration(registered, (*seen.findings, *held, *_name_finding(machine, wanted)), report)


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

"""The examination of a machine: facts for `doctor.checks`, gathered without changing anything.

A fact that cannot be gathered becomes a trouble in words, and the rest is gathered all the same.
"""

import shutil
import socket
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefect_slots import errors
from prefect_slots.acquire.coordination import Coordination, coordinate
from prefect_slots.acquire.meeting import meet
from prefect_slots.acquire.registration import DAY_SECONDS, machine_name
from prefect_slots.detect.survey import Survey, survey
from prefect_slots.doctor import counts, facts
from prefect_slots.ledger import leases, queries, registry, schema, store, transaction, usage
from prefect_slots.ledger.folder import find_folder
from prefect_slots.ledger.owner import is_dead
from prefect_slots.limits.claim import Standing, read_claims, variable_name
from prefect_slots.limits.client import Server
from prefect_slots.limits.registration import read_all
from prefect_slots.limits.removal import find_gone
from prefect_slots.model import GPU_MEM, Finding, format_amount
from prefect_slots.scheduling import decide, explain
from prefect_slots.settings import Settings, load_readable
from prefect_slots.system.clock import boot_id
from prefect_slots.system.mounts import file_system, query_mounts
from prefect_slots.system.processes import pid_namespace

# A person waits for the answer, and a server that takes longer is in trouble itself.
_ANSWER_SECONDS = 5.0


class _Look:
    """Facts and troubles so far."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        self.troubles: list[Finding] = []

    def at(self, about: str) -> ExitStack[bool]:
        """Turn an error inside a `with` block into a trouble, so that the rest is examined all the same."""
        # No generator with `contextmanager`: its type would not say that errors end here.
        attempt = ExitStack[bool]()
        attempt.push(partial(self._note, about))
        return attempt

    def _note(self, about: str, _: object, error: BaseException | None, __: object) -> bool:
        if isinstance(error, errors.SlotsError):
            self.troubles.append(_trouble(about, error))
        elif isinstance(error, Exception):
            found = f"looking at it failed: {type(error).__name__}: {error}"
            self.troubles.append(_fault(about, found, "please report this"))
        return isinstance(error, Exception)


def _fault(about: str, found: str, remedy: str) -> Finding:
    return Finding(severity="error", subject=about, problem=found, remedy=remedy)


def _trouble(about: str, error: errors.SlotsError) -> Finding:
    match error:
        case errors.ServerUnreachable():
            other = "correct PREFECT_API_URL, or set PREFECT_SLOTS_COORDINATION=local"
            remedy = f"start it with `prefect server start`, {other}"
            return _fault(about, f"none answers at {error.url} ({error.cause})", remedy)
        case errors.ServerRefused() if error.status in (401, 403):
            found = f"{error.url} refuses to let us in (HTTP {error.status}: {error.detail})"
            return _fault(about, found, "set PREFECT_API_KEY or PREFECT_API_AUTH_STRING")
        case errors.ServerRefused():
            found = f"{error.url}: {error.detail} (HTTP {error.status})"
            return _fault(about, found, "correct PREFECT_API_URL, or see the server's log")
        case errors.NameTaken():
            other = f"another ledger ({error.theirs}, on host {error.host})"
            found = f"'{error.machine}' is claimed by {other}; this one is {error.ours}"
            adopt = "if the other one is gone for good, `prefect-slots register --adopt`"
            remedy = f"give this machine its own name (`prefect-slots register --name`); {adopt}"
            return _fault("name on the server", found, remedy)
        case errors.GpuTaken():
            found = f"{', '.join(error.gpus)} stands in the way of a registration: machine '{error.machine}' has it"
            return _fault(
                "shared gpus", found, "share one ledger with it, or split the GPUs, as the finding about it says"
            )
        case errors.LedgerUnreadable():
            found, _, remedy = error.reason.partition(". ")
            found, _, remedy = (found, "", remedy) if remedy else error.reason.partition("; ")
            return _fault(about, f"{error.path}: {found}", remedy)
        case errors.StateFolderUnsuitable():
            return _fault(about, f"{error.path}: {error.reason}", error.remedy)
        case _:
            return _fault(about, str(error), "correct it")


async def examine(config: Path | None, env: Mapping[str, str]) -> facts.Facts:
    """Return the facts of this machine, its ledger and its server. Errors become troubles, and none is raised.

    A missing state folder is made, to see that it can be made; a missing ledger is not.

    Args:
        config: Settings file named on the command line.
        env: Environment that tasks will run in.
    """
    look = _Look()
    coordination: Coordination | None = None
    ledger: store.Ledger | None = None
    readable, mistake = load_readable(config, env=env)
    # With a mistake, nothing that the file declares can be compared; the rest is examined all the same.
    settings = readable if mistake is None else None
    if settings is not None:
        look.seen |= {"settings": settings.source}
    with look.at("settings"):
        if mistake is not None:
            raise mistake
    with look.at("settings"):
        coordination = coordinate(readable.coordination, env)
        look.seen |= {"mode": coordination.mode}
    seen = _survey(look, settings, env)
    with look.at("state folder"):
        folder = find_folder(readable.state_dir, env, trusted=readable.trust_file_system, partition=readable.partition)
        look.seen |= {"folder": _folder(folder)}
        with look.at("ledger"):
            if (folder / schema.FILE).exists():
                ledger = store.Ledger(folder, partial(decide.decide, max_overtakes=readable.max_overtakes))
    try:
        registered: registry.Registered | None = None
        with look.at("ledger"):
            if ledger is not None:
                registered = ledger.read(registry.registered)
                if settings is not None:
                    gpus = [cell.key for cell in registered.cells(GPU_MEM) if cell.present]
                    look.troubles.extend(meet(ledger, settings, gpus, dry_run=True))
                look.seen |= {"ledger": _ledger(ledger, registered, seen, settings)}
        if settings is not None:
            look.seen |= {"names": _names(settings, env, registered)}
        url = coordination.url if coordination else None
        if url is not None:
            with look.at("server"):
                await _look_at_server(look, url, readable, ledger, seen)
    finally:
        if ledger is not None:
            ledger.close()
    answered = look.seen.get("server")
    versions = _versions(answered.version if answered else None, url)
    order = env.get("CUDA_DEVICE_ORDER")
    return facts.Facts(versions=versions, cuda_device_order=order, troubles=tuple(look.troubles), **look.seen)


def _versions(server: str | None, url: str | None) -> facts.Versions:
    here = url is not None and urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1", socket.gethostname())
    return facts.Versions(
        ours=_version("prefect-slots") or "unknown",
        client=_version("prefect"),
        fastapi=_version("fastapi"),
        server=server,
        server_is_here=here,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _survey(look: _Look, settings: Settings | None, env: Mapping[str, str]) -> Survey | None:
    if settings is None:
        return None
    with look.at("detection"):
        seen = survey(settings.declarations, env, seconds=settings.detect_seconds)
        look.troubles.extend(seen.findings)
        if GPU_MEM in seen.inventory:
            look.seen |= {"gpus": tuple(cell.label or "unnamed" for cell in seen.inventory[GPU_MEM].cells)}
        return seen
    return None


def _names(settings: Settings, env: Mapping[str, str], registered: registry.Registered | None) -> facts.Names:
    machine = registered.machine if registered else None
    setting = machine_name(settings) if settings.worker else None
    return facts.Names(setting=setting, worker_id=env.get("WORKER_ID") or None, registered=machine)


def _folder(folder: Path) -> facts.Folder:
    # The ledger's file is never opened here: closing it would drop the locks that SQLite has on it.
    return facts.Folder(
        path=str(folder),
        file_system=file_system(folder, query_mounts()),
        free_bytes=shutil.disk_usage(folder).free,
        ballast=(folder / schema.BALLAST).exists() if (folder / schema.FILE).exists() else None,
    )


def _ledger(
    ledger: store.Ledger, registered: registry.Registered, seen: Survey | None, settings: Settings | None
) -> facts.LedgerFacts:
    changed: tuple[str, ...] = ()
    if seen is not None and registered.machine is not None:
        now = _offers(ledger.rehearse(lambda tx: registry.register(tx, seen.inventory)))
        before = _offers(registered)
        changed = tuple(sorted(name for name in {*now, *before} if now.get(name) != before.get(name)))
    return ledger.read(
        lambda tx: facts.LedgerFacts(
            id=ledger.id,
            machine=registered.machine,
            owners=_owners(tx, ledger.folder),
            stranded=_stranded(tx),
            unbacked=tuple(leases.unbacked(tx).values()),
            changed=changed,
            stale=() if settings is None else _stale(tx, settings.stale_after),
        )
    )


def _stale(tx: transaction.Transaction, after: int) -> tuple[facts.StaleFacts, ...]:
    shown = usage.read_outside(tx)
    return tuple(
        facts.StaleFacts(
            resource=resource.name,
            label=f"gpu {cell.id.number} {cell.label}".strip() if resource.name == GPU_MEM else "",
            used="" if seen.used is None else format_amount(seen.used, resource.unit),
            age=0.0 if seen.seen_at is None else tx.now - seen.seen_at,
            misses=seen.misses,
            why=seen.why,
        )
        for resource in registry.registered(tx).resources
        for cell in resource.cells
        if cell.present and (seen := shown.get(cell.id)) is not None and seen.misses >= after
    )


def _offers(registered: registry.Registered) -> dict[str, object]:
    """Return the offer of each resource, without parts that may change at every boot."""
    return {
        resource.name: (resource.scope, resource.unit, [(c.key, c.capacity) for c in resource.cells if c.present])
        for resource in registered.resources
        if any(cell.present for cell in resource.cells)
    }


def _owners(tx: transaction.Transaction, folder: Path) -> tuple[facts.OwnerFacts, ...]:
    here = pid_namespace()
    return tuple(
        facts.OwnerFacts(
            row=owner,
            dead=is_dead(folder, *owner[:7]),
            lock_file_missing=not (folder / "owners" / owner.lock_file).exists(),
            elsewhere=owner.namespace != here,
        )
        for owner in queries.owners(tx)
    )


def _stranded(tx: transaction.Transaction) -> tuple[str, ...]:
    book = tx.book()
    return tuple(
        f"{ticket.label}, for {ticket.shape.requirement.describe()},"
        for ticket in queries.waiting(tx)
        if ticket.blocked_on is None and explain.is_stranded(book, ticket.shape.requirement, ticket.id)
    )


# The server


async def _look_at_server(
    look: _Look, url: str, settings: Settings, ledger: store.Ledger | None, seen: Survey | None
) -> None:
    server = await Server.open(url, request_seconds=_ANSWER_SECONDS)
    try:
        info = await server.info()
        look.seen |= {"server": info}
        named = ledger.read(lambda tx: tx.meta("machine")) if ledger is not None else None
        machine = named or machine_name(settings)
        ours = ledger.id if ledger is not None else "none yet"
        standings = await read_claims(server)
        look.seen |= {
            "shared": _shared(standings, ours, seen),
            "gone": await _gone(server, settings, machine, standings),
        }
        own = next((each for each in standings if each.variable == variable_name(machine)), None)
        exists, claim = own is not None, own.claim if own is not None else None
        # A claim that cannot be read is somebody's all the same.
        if exists and (claim is None or claim.ledger_id != ours):
            theirs, host = (claim.ledger_id, claim.host) if claim else ("unreadable", "unknown")
            raise errors.NameTaken(machine=machine, theirs=theirs, ours=ours, host=host)
        look.seen |= {"claimed": exists}
        # Limits are compared only if all three sides are known: else each would seem an orphan.
        if ledger is not None and named is not None and seen is not None:
            limits, mirrors = await counts.Comparison(
                server, ledger, machine, seen, claim, settings.declarations.source
            ).run()
            look.seen |= {"limits": limits, "mirrors": mirrors}
    finally:
        await server.close()


def _shared(standings: Iterable[Standing], ours: str, seen: Survey | None) -> tuple[facts.SharedGpu, ...]:
    """Return the GPUs of this machine that other ledgers claim, or were refused."""
    keys = [cell.key for cell in seen.inventory[GPU_MEM].cells] if seen and GPU_MEM in seen.inventory else []
    others = [each.claim for each in standings if each.claim is not None and each.claim.ledger_id != ours]
    return tuple(
        facts.SharedGpu(gpu=gpu, machine=each.machine, host=each.host, ledger=each.ledger_id, refused=refused)
        for each in others
        for refused in (False, True)
        for gpu in (replace(each, cards=dict(enumerate(each.refused))) if refused else each).shares(keys, boot_id())
    )


async def _gone(server: Server, settings: Settings, machine: str, standings: Iterable[Standing]) -> tuple[str, ...]:
    found = await find_gone(server, machine, settings.forget_after * DAY_SECONDS, standings, await read_all(server))
    return tuple(f"{shown.machine} ({shown.silent_seconds / DAY_SECONDS:.0f} days)" for _, shown in found)

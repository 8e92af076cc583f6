"""Registration: make the server's limits, their mirrors and the claim equal what this machine has.

Safe to run by several workers at once and after a crash at any point: the server is read again, and done steps are
not repeated. A number is changed by itself only; `active_slots` is never set, and nothing held is deleted.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

from prefect_slots.errors import LimitConflict, ServerUnreachable
from prefect_slots.limits import gateway, naming, outcome
from prefect_slots.limits.claim import Claim, read_claim, read_own_claim, write_claim
from prefect_slots.limits.client import Server
from prefect_slots.limits.plan import Action, Entry, RegistrationPlan, mirrors_in, numbers_of, plan
from prefect_slots.model import LimitSpec, Stock
from prefect_slots.system import clock

# Two workers that register at once lose a round each now and then; after so many, something else changes the limits.
_ROUNDS = 12
# The longest pause between two rounds, in which another worker's registration ends.
_PAUSE_SECONDS = 0.5
# A mirror follows its limit; only these say more than the limit's own entry.
_SHOWN_MIRRORS = (Action.ORPHANED, Action.CONFLICT)


@dataclass(frozen=True, kw_only=True)
class RegistrationReport:
    """The result of a registration; with `dry_run`, the result that it would have.

    Attributes:
        entries: Every limit of this machine; mirrors only where they are orphaned or in the way.
        claim: `"created"`, `"changed"`, `"unchanged"` or `"adopted"`.
    """

    machine: str
    ledger_id: str
    claim: str
    entries: tuple[Entry, ...]
    dry_run: bool


class _ReadAgain(Exception):
    """Another process was faster, or an answer was lost: the server must be read before going on."""


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """The arguments of one registration; `claim` is the claim to write, without former ledgers."""

    claim: Claim
    wanted: tuple[LimitSpec, ...]
    adopt: bool
    prune: bool
    dry_run: bool


async def register(
    server: Server,
    *,
    machine: str,
    ledger_id: str,
    host: str,
    stocks: Iterable[Stock],
    cards: Mapping[int, str],
    adopt: bool = False,
    prune: bool = False,
    dry_run: bool = False,
) -> RegistrationReport:
    """Claim `machine` for `ledger_id` and make its limits equal `stocks`.

    Args:
        server: The server to register on.
        machine: A sanitised machine name.
        ledger_id: The ledger that decides for this machine.
        host: The host's name, for people.
        stocks: The machine's resources with their nominal capacities.
        cards: UUIDs by the GPU's number in limit names.
        adopt: Take over the name from another ledger, and limits that this machine did not make.
        prune: Delete limits that this machine made and no longer has, if nothing holds them.
        dry_run: Write nothing and report the plan; conflicts are then entries, not errors.

    Raises:
        NameTaken: another ledger has claimed the name.
        LimitConflict: a limit is not ours to change, or is switched off; nothing was written.
        ServerUnreachable: the server did not answer, or others kept changing the same limits.
        ServerRefused: the server refused us.
    """
    wanted = naming.specs(machine, stocks)
    limits = {spec.name: spec.limit for spec in wanted}
    claim = Claim(
        machine=machine, ledger_id=ledger_id, host=host, version=_our_version(), limits=limits, cards=dict(cards)
    )
    wish = _Wish(claim=claim, wanted=wanted, adopt=adopt, prune=prune, dry_run=dry_run)
    done: dict[str, Entry] = {}
    words: list[str] = []
    for _ in range(_ROUNDS):
        try:
            return await _one_round(server, wish, done, words)
        except _ReadAgain:
            # Two that go on in step would be in each other's way at every limit.
            await asyncio.sleep(clock.between(0, _PAUSE_SECONDS))
    raise ServerUnreachable(url=server.url, cause=f"the limits of '{machine}' kept changing while they were registered")


async def _one_round(server: Server, wish: _Wish, done: dict[str, Entry], words: list[str]) -> RegistrationReport:
    machine, ledger_id = wish.claim.machine, wish.claim.ledger_id
    exists, found = await (read_claim(server, machine) if wish.adopt else read_own_claim(server, machine, ledger_id))
    existing = await read_all(server)
    claim = replace(wish.claim, former=_former(found, existing, ledger_id))
    # The later of these say more: our own mirrors have the numbers of our last registration, even of a broken one.
    made = numbers_of(existing, claim.former) | dict(found.limits if found else {}) | numbers_of(existing, {ledger_id})
    todo = plan(wish.wanted, existing, made, ledger_id=ledger_id, former=claim.former, adopt=wish.adopt)
    if todo.conflicts and not wish.dry_run:
        first = todo.conflicts[0]
        raise LimitConflict(name=first.name, theirs=first.old or 0, ours=first.new or 0, problem=first.problem)

    words.append(_word(found, claim))
    if not wish.dry_run:
        standing = found
        if found is None or found.ledger_id != ledger_id:
            # The name first, so that of two ledgers only one goes on; the limits last, so that a crash between leaves
            # the numbers that the limits still have.
            standing = replace(claim, limits=found.limits if found else {})
            await _sure(write_claim(server, standing, replace=exists))
        for step in todo.steps():
            await _write(server, step)
            done[step.name] = step
        for group in _orphans(todo) if wish.prune else ():
            await _prune(server, group, done)
        if standing != claim:
            await _sure(write_claim(server, claim, replace=True))
    # In a later round, an earlier round's changes look as if they had always been so.
    entries = (*todo.limits, *(entry for entry in todo.mirrors if entry.action in _SHOWN_MIRRORS))
    return RegistrationReport(
        machine=machine,
        ledger_id=ledger_id,
        claim=next((word for word in words if word != "unchanged"), "unchanged"),
        entries=tuple(done.get(entry.name, entry) for entry in entries),
        dry_run=wish.dry_run,
    )


def _former(found: Claim | None, existing: Mapping[str, outcome.ExistingLimit], ledger_id: str) -> tuple[str, ...]:
    """Return the ledgers that had this name before ours and still have mirrors."""
    if found is None:
        return ()
    mirrored = {ledger for _, _, ledger in mirrors_in(existing)}
    return tuple(sorted(mirrored & {*found.former, found.ledger_id} - {ledger_id}))


def _word(found: Claim | None, claim: Claim) -> str:
    if found is None:
        return "created"
    if found.ledger_id != claim.ledger_id:
        return "adopted"
    return "unchanged" if found == claim else "changed"


async def _write(server: Server, step: Entry) -> None:
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate

    number = step.new
    assert number is not None  # only an orphan has none, and an orphan is no step
    if step.action is Action.CREATE:
        create = GlobalConcurrencyLimitCreate(name=step.name, limit=number)
        await _sure(server.ask(lambda client: client.create_global_concurrency_limit(create)))
    else:
        update = GlobalConcurrencyLimitUpdate(limit=number)
        await _sure(server.ask(lambda client: client.update_global_concurrency_limit(step.name, update)))


async def _sure(write: Awaitable[object]) -> None:
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    try:
        await write
    except (ObjectAlreadyExists, ObjectNotFound, outcome.UnknownOutcome) as error:
        raise _ReadAgain from error


def _orphans(todo: RegistrationPlan) -> Iterator[tuple[Entry, ...]]:
    """Yield each orphaned limit together with its orphaned mirrors, and orphaned mirrors whose limit stays alone."""
    mirrors = [entry for entry in todo.mirrors if entry.action is Action.ORPHANED]
    for limit in todo.limits:
        if limit.action is Action.ORPHANED:
            names = {name for name, of, _ in mirrors_in(entry.name for entry in mirrors) if of == limit.name}
            own = [entry for entry in mirrors if entry.name in names]
            mirrors = [entry for entry in mirrors if entry not in own]
            yield (limit, *own)
    for mirror in mirrors:
        yield (mirror,)


async def _prune(server: Server, group: tuple[Entry, ...], done: dict[str, Entry]) -> None:
    # Leases on a deleted limit would count nowhere: its holders are read again right before.
    for entry in group:
        found = await gateway.read_limit(server, entry.name)
        if found is not None and found.active_slots > 0:
            return
    for entry in group:
        name = entry.name
        await _sure(server.ask(lambda client, name=name: client.delete_global_concurrency_limit_by_name(name)))
        done[name] = replace(entry, action=Action.PRUNED)


async def read_all(server: Server) -> dict[str, outcome.ExistingLimit]:
    """Return every limit that the server has, by name.

    Raises:
        ServerUnreachable: if it does not answer.
    """
    found = await server.ask_pages(
        lambda client, size, offset: client.read_global_concurrency_limits(limit=size, offset=offset)
    )
    return {limit.name: gateway.existing_limit(limit) for limit in found}


def _our_version() -> str:
    try:
        return version("prefect-slots")
    except PackageNotFoundError:
        return "unknown"

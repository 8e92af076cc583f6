"""Registration: make the server's limits, their mirrors and the claim equal what this machine has.

Safe to run by several workers at once and after a crash at any point: the server is read again, and done steps are
not repeated. A number is changed by itself only; `active_slots` is never set, and nothing held is deleted.
"""

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version

from prefect_slots.errors import LimitConflict, ServerUnreachable
from prefect_slots.limits import gateway, naming, outcome
from prefect_slots.limits.claim import Claim, Standing, read_claims, variable_name, write_claim
from prefect_slots.limits.client import Server
from prefect_slots.limits.fleet import FleetNumbers, fleet_numbers
from prefect_slots.limits.plan import Action, Entry, RegistrationPlan, given_numbers, mirrors_in, numbers_of, plan
from prefect_slots.limits.removal import GoneMachine, ReadAgain, find_gone, forget, orphans, prune_group, sure
from prefect_slots.limits.rivals import Rival, find_rival
from prefect_slots.model import GPU_MEM, Scope, Stock
from prefect_slots.system import clock

# Two workers that register at once lose a round each now and then; after so many, something else changes the limits.
_ROUNDS = 12
# The longest pause between two rounds, in which another worker's registration ends.
_PAUSE_SECONDS = 0.5
# A pod that is started again finds its old claim silent for some seconds only. With the usual heartbeat it takes over
# within this time; a service manager tries again after a longer one.
_LONGEST_WAIT_SECONDS = 100.0
# A rival that lives is noticed soon after its heartbeat.
_LOOK_SECONDS = 5.0
_log = logging.getLogger("prefect_slots")
# A mirror follows its limit; only these say more than the limit's own entry.
_SHOWN_MIRRORS = (Action.ORPHANED, Action.CONFLICT)


@dataclass(frozen=True, kw_only=True)
class RegistrationReport:
    """The result of a registration; with `dry_run`, the result that it would have.

    Attributes:
        entries: Every limit of this machine; mirrors only where they are orphaned or in the way.
        claim: `"created"`, `"changed"`, `"unchanged"` or `"adopted"`.
        gone: Machines that have been silent for too long, with everything of theirs; only where pruning was asked for.
        fleet: The number in force of each declared resource of the fleet.
        notes: Fleet limits of which this machine declares another number, with words and a remedy.
    """

    machine: str
    ledger_id: str
    claim: str
    entries: tuple[Entry, ...]
    dry_run: bool
    gone: tuple[GoneMachine, ...] = ()
    fleet: Mapping[str, int] = field(default_factory=dict[str, int])
    notes: Mapping[str, str] = field(default_factory=dict[str, str])


class _Rivalled(Exception):
    """A rival has not been silent for long enough."""

    def __init__(self, rival: Rival) -> None:
        self.rival = rival


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """The arguments of one registration; `claim` is the claim to write, without former ledgers and limits."""

    claim: Claim
    stocks: tuple[Stock, ...]
    adopt: bool
    prune: bool
    dry_run: bool
    forget_after: float


@dataclass
class _Progress:
    """The changes of all rounds so far: a later round finds an earlier one's as if they had always been so."""

    done: dict[str, Entry] = field(default_factory=dict[str, Entry])
    words: list[str] = field(default_factory=list[str])
    gone: dict[str, GoneMachine] = field(default_factory=dict[str, GoneMachine])


async def register(
    server: Server,
    *,
    machine: str,
    ledger_id: str,
    host: str,
    stocks: Iterable[Stock],
    cards: Mapping[int, str],
    boot: str = "",
    heartbeat: float = 0.0,
    adopt: bool = False,
    prune: bool = False,
    forget_after: float = math.inf,
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
        boot: Id of this boot of the kernel, by which GPUs without a unique UUID are told from other machines'.
        heartbeat: Seconds until the next registration by the same worker; 0 if none follows.
        adopt: Take over the name or the GPUs from another ledger, and limits that this machine did not make.
        prune: Delete limits that this machine made and no longer has, if nothing holds them, and machines that have
            been silent for longer than `forget_after`.
        forget_after: Seconds.
        dry_run: Write nothing and report the plan; conflicts are then entries, not errors.

    Raises:
        NameTaken, GpuTaken: another ledger that is not known to be gone has claimed the name, or one of the GPUs.
        LimitConflict: a limit is not ours to change, or is switched off; nothing was written.
        ServerUnreachable: the server did not answer, or others kept changing the same limits.
        ServerRefused: the server refused us.
    """
    claim = Claim(
        machine=machine,
        ledger_id=ledger_id,
        host=host,
        version=_our_version(),
        limits={},
        cards=dict(cards),
        boot=boot,
        heartbeat=heartbeat,
    )
    wish = _Wish(
        claim=claim, stocks=tuple(stocks), adopt=adopt, prune=prune, dry_run=dry_run, forget_after=forget_after
    )
    progress = _Progress()
    heard: dict[str, float] = {}
    rounds = 0
    while rounds < _ROUNDS:
        try:
            return await _one_round(server, wish, progress)
        except ReadAgain:
            rounds += 1
            # Two that go on in step would be in each other's way at every limit.
            await asyncio.sleep(clock.between(0, _PAUSE_SECONDS))
        except _Rivalled as refused:
            await _outwait(server, wish, refused.rival, heard)
    raise ServerUnreachable(url=server.url, cause=f"the limits of '{machine}' kept changing while they were registered")


async def _one_round(server: Server, wish: _Wish, progress: _Progress) -> RegistrationReport:
    machine, ledger_id = wish.claim.machine, wish.claim.ledger_id
    standings = await sure(read_claims(server))
    existing = await read_all(server)
    rival = await find_rival(server, wish.claim, standings, existing)
    if rival is not None:
        await _overcome(server, wish, rival, existing)
    own = _own(standings, machine)
    found = own.claim if own is not None else None
    # A registration by hand keeps the heartbeat of the worker beside it.
    beat = found.heartbeat if found is not None and found.ledger_id == ledger_id else 0.0
    claim = replace(wish.claim, former=_former(found, existing, ledger_id), heartbeat=wish.claim.heartbeat or beat)
    # Our own mirrors have the numbers of our last registration, even of a broken one.
    made = given_numbers(
        *(numbers_of(existing, {former}) for former in claim.former),
        *((found.limits, found.giving) if found else ()),
        numbers_of(existing, {ledger_id}),
    )
    fleet = fleet_numbers(
        wish.stocks,
        existing,
        [each.claim for each in standings if each.claim is not None],
        made,
        machine=claim.machine,
        ledger_id=ledger_id,
        adopt=wish.adopt,
    )
    wanted = naming.specs(claim.machine, fleet.stocks)
    owners = {name: owner.ledger_id for name, owner in fleet.owners.items()}
    todo = plan(wanted, existing, made, ledger_id=ledger_id, former=claim.former, owners=owners, adopt=wish.adopt)
    limits = {spec.name: spec.limit for spec in wanted}
    claim = replace(claim, limits=limits, owned=_owned(wish, fleet, todo, progress.done, found))
    if any(entry.action is Action.LOWERED for entry in todo.limits):
        again = _own(await sure(read_claims(server)), machine)
        # Another process of this machine may be giving it a number at this moment.
        if (again.claim if again is not None else None) != found:
            raise ReadAgain
    if todo.conflicts and not wish.dry_run:
        first = todo.conflicts[0]
        if found is not None and found.ledger_id == ledger_id:
            # A machine that is refused a limit lives all the same.
            await sure(write_claim(server, found, replace=True))
        raise LimitConflict(name=first.name, theirs=first.old or 0, ours=first.new or 0, problem=first.problem)

    progress.words.append(_word(found, claim))
    gone = await find_gone(server, machine, wish.forget_after, standings, existing) if wish.prune else []
    progress.gone.update((standing.variable, shown) for standing, shown in gone)
    if not wish.dry_run:
        standing = found
        if found is None or found.ledger_id != ledger_id or not {*claim.cards.values()} <= {*found.cards.values()}:
            # The name first, so that of two ledgers only one goes on; the limits last, so that a crash between leaves
            # the numbers that the limits still have.
            standing = replace(claim, limits=found.limits if found else {})
            await sure(write_claim(server, standing, replace=own is not None))
            # Two ledgers that claim a GPU at once both see the other's claim now, and the later one yields.
            rival = await find_rival(server, wish.claim, await sure(read_claims(server)), existing)
            if rival is not None:
                await _overcome(server, wish, rival, existing)
        numbers = {step.name: step.new for step in todo.steps() if step.action is Action.CHANGE and step.new}
        if numbers and standing is not None:
            # Before the limits: another process of this machine would take a number half-way for a person's.
            standing = replace(standing, giving=numbers)
            await sure(write_claim(server, standing, replace=True))
        for step in todo.steps():
            await _write(server, step)
            progress.done[step.name] = step
        for group in orphans(todo):
            # Without its mirrors, a former ledger that was only asleep gets no slot of these limits.
            if wish.prune or all(_ledger_of(entry.name) in claim.former for entry in group):
                await prune_group(server, group, progress.done)
        # Read again: they may share limits of the fleet with this machine, which mirrors them only now.
        existing = await read_all(server) if gone else existing
        for each, _ in gone:
            await forget(server, each, existing)
        # Written by every registration: it is the sign of life.
        if standing is found or standing != claim:
            await sure(write_claim(server, claim, replace=True))
    entries = (*todo.limits, *(entry for entry in todo.mirrors if entry.action in _SHOWN_MIRRORS))
    return RegistrationReport(
        machine=claim.machine,
        ledger_id=ledger_id,
        claim=next((word for word in progress.words if word != "unchanged"), "unchanged"),
        entries=tuple(progress.done.get(entry.name, entry) for entry in entries),
        dry_run=wish.dry_run,
        gone=tuple(progress.gone.values()),
        fleet=fleet.numbers,
        notes=fleet.notes,
    )


def _own(standings: Iterable[Standing], machine: str) -> Standing | None:
    return next((each for each in standings if each.variable == variable_name(machine)), None)


def _owned(
    wish: _Wish,
    fleet: FleetNumbers,
    todo: RegistrationPlan,
    done: Mapping[str, Entry],
    found: Claim | None,
) -> dict[str, datetime]:
    """Return the fleet limits whose number this machine owns after the registration, with the time of each."""
    now = datetime.now(UTC)
    before = dict(found.owned) if found is not None else {}
    ours = wish.claim.ledger_id
    declared = {stock.resource for stock in wish.stocks if stock.declared}
    changes = {entry.name for entry in (*todo.limits, *done.values()) if entry.action in (Action.CREATE, Action.CHANGE)}
    owned: dict[str, datetime] = {}
    for stock in fleet.stocks:
        for spec in naming.specs(wish.claim.machine, [stock]) if stock.resource in declared else ():
            if spec.scope is not Scope.FLEET:
                continue
            owner = fleet.owners.get(spec.name)
            if owner is not None and owner.ledger_id == ours:
                owned[spec.name] = before.get(spec.name, now)
            elif owner is not None and wish.adopt:
                # This machine's clock may be behind the former owner's, and both may have declared within a moment.
                owned[spec.name] = max(now, owner.owned[spec.name] + timedelta(microseconds=1))
            elif owner is None and (wish.adopt or spec.name in changes):
                owned[spec.name] = now
    return owned


async def _overcome(server: Server, wish: _Wish, rival: Rival, existing: Mapping[str, outcome.ExistingLimit]) -> None:
    """Go past a rival that is gone, or that is to be adopted.

    Raises:
        _Rivalled: it is neither.
        ReadAgain: it was forgotten.
    """
    if rival.seconds_left > 0 and not wish.adopt:
        raise _Rivalled(rival)
    if rival.gpus and rival.standing.claim is not None and not wish.dry_run:
        await forget(server, rival.standing, existing)
        raise ReadAgain


async def _outwait(server: Server, wish: _Wish, rival: Rival, heard: dict[str, float]) -> None:
    """Wait for a moment if the rival may be a worker that has just been killed.

    Raises:
        NameTaken, GpuTaken: it lives, or waiting would take too long.
    """
    standing = rival.standing
    fresh = standing.variable not in heard
    since = heard.setdefault(standing.variable, standing.written_at)
    kept = standing.claim is not None and standing.claim.heartbeat > 0
    if not kept or since != standing.written_at or rival.seconds_left > _LONGEST_WAIT_SECONDS or wish.dry_run:
        if not wish.dry_run:
            with suppress(ReadAgain):
                await _withdraw(server, wish, rival)
            if rival.gpus:
                await sure(_note_refusal(server, wish, rival.gpus))
        raise rival.error(wish.claim)
    if fresh:
        _log.warning("waiting for a sign of life: %s", rival.error(wish.claim))
    await asyncio.sleep(min(rival.seconds_left, _LOOK_SECONDS))


async def _withdraw(server: Server, wish: _Wish, rival: Rival) -> None:
    """Delete our mirrors of limits that the rival has now, unless something is held.

    They were deleted when it took over. A registration that slept at that moment would have made them again since, and
    both ledgers would grant the same GPU.
    """
    numbers = {str(number) for number, gpu in wish.claim.cards.items() if gpu in rival.gpus}
    cells = tuple(f"{naming.base(GPU_MEM)}:{wish.claim.machine}:{number}" for number in numbers)
    for name, limit, ledger in mirrors_in(await read_all(server)):
        if ledger == wish.claim.ledger_id and (limit in cells or not rival.gpus):
            await prune_group(server, (Entry(name=name, action=Action.ORPHANED, old=None, new=None),), {})


async def _note_refusal(server: Server, wish: _Wish, gpus: tuple[str, ...]) -> None:
    """Write into this ledger's own claim that it was refused: `doctor` shows it on the other side."""
    own = next((s for s in await read_claims(server) if s.variable == variable_name(wish.claim.machine)), None)
    if own is not None and (own.claim is None or own.claim.ledger_id != wish.claim.ledger_id):
        return
    base = own.claim if own is not None and own.claim is not None else replace(wish.claim, limits={})
    cards = {number: uuid for number, uuid in base.cards.items() if uuid not in gpus}
    await write_claim(server, replace(base, cards=cards, refused=gpus), replace=own is not None)


def _former(found: Claim | None, existing: Mapping[str, outcome.ExistingLimit], ledger_id: str) -> tuple[str, ...]:
    """Return the ledgers that had this name before ours and still have mirrors."""
    if found is None:
        return ()
    mirrored = {ledger for _, _, ledger in mirrors_in(existing)}
    return tuple(sorted(mirrored & {*found.former, found.ledger_id} - {ledger_id}))


def _ledger_of(name: str) -> str | None:
    parts = naming.split_mirror(name)
    return parts[1] if parts else None


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
        await sure(server.ask(lambda client: client.create_global_concurrency_limit(create)))
    else:
        update = GlobalConcurrencyLimitUpdate(limit=number)
        await sure(server.ask(lambda client: client.update_global_concurrency_limit(step.name, update)))


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

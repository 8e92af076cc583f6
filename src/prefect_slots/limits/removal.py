"""Removal: orphaned limits, and everything of a machine that is gone.

Nothing held is deleted: leases on a deleted limit would count nowhere.
"""

from collections.abc import Awaitable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from prefect_slots.limits.claim import Claim, Standing, delete_claim, write_claim
from prefect_slots.limits.client import Server
from prefect_slots.limits.gateway import Gateway, read_limit
from prefect_slots.limits.outcome import ExistingLimit, UnknownOutcome
from prefect_slots.limits.plan import Action, Entry, RegistrationPlan, given_numbers, mirrors_in, numbers_of, plan
from prefect_slots.limits.rivals import holds, silence

T = TypeVar("T")


class ReadAgain(Exception):
    """Another process was faster, or an answer was lost: the server must be read before going on."""


@dataclass(frozen=True, kw_only=True)
class GoneMachine:
    """A machine that has given no sign of life for longer than `forget_after`.

    Attributes:
        silent_seconds: Seconds since its last sign of life.
        limits: Its limits, without mirrors and without those that other machines use.
    """

    machine: str
    host: str
    ledger_id: str
    silent_seconds: int
    limits: tuple[str, ...]


async def sure(request: Awaitable[T]) -> T:
    """Return the answer of a request.

    Raises:
        ReadAgain: if another process was faster, or the answer was lost.
    """
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    try:
        return await request
    except (ObjectAlreadyExists, ObjectNotFound, UnknownOutcome) as error:
        raise ReadAgain from error


def orphans(todo: RegistrationPlan) -> Iterator[tuple[Entry, ...]]:
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


async def prune_group(server: Server, group: tuple[Entry, ...], done: dict[str, Entry]) -> None:
    """Delete limits that belong together, unless one of them is held; note them in `done`."""
    # Leases on a deleted limit would count nowhere: its holders are read again right before.
    for entry in group:
        found = await read_limit(server, entry.name)
        if found is not None and found.active_slots > 0:
            return
    for entry in group:
        name = entry.name
        await sure(server.ask(lambda client, name=name: client.delete_global_concurrency_limit_by_name(name)))
        done[name] = replace(entry, action=Action.PRUNED)


async def find_gone(
    server: Server, machine: str, seconds: float, standings: Iterable[Standing], existing: Mapping[str, ExistingLimit]
) -> list[tuple[Standing, GoneMachine]]:
    """Return the machines other than `machine` that have been silent for longer than `seconds`."""
    found: list[tuple[Standing, GoneMachine]] = []
    for each in standings:
        claim, silent = each.claim, silence(each, existing)
        if claim is None or claim.machine == machine or silent <= seconds:
            continue
        if not await holds(server, claim.ledger_id, existing):
            limits = tuple(entry.name for entry in _everything_of(claim, existing).limits)
            found.append((each, GoneMachine(
                machine=claim.machine, host=claim.host, ledger_id=claim.ledger_id, silent_seconds=round(silent),
                limits=limits,
            )))  # fmt: skip
    return found


def _everything_of(claim: Claim, existing: Mapping[str, ExistingLimit]) -> RegistrationPlan:
    """Return the plan that leaves nothing of a machine on the server but the limits that others use."""
    made = given_numbers(numbers_of(existing, {claim.ledger_id, *claim.former}), claim.limits)
    return plan((), existing, made, ledger_id=claim.ledger_id, former=claim.former)


async def forget(server: Server, gone: Standing, existing: Mapping[str, ExistingLimit]) -> None:
    """Remove everything of a machine: slots that it left, limits and mirrors, and the claim last."""
    claim = gone.claim
    assert claim is not None  # an unreadable claim is never forgotten
    for name, limit, ledger in mirrors_in(existing):
        counted = existing[name].active_slots
        if ledger in {claim.ledger_id, *claim.former} and counted and not await Gateway(server, ledger).holders(limit):
            await sure(Gateway(server, ledger).subtract(limit, counted))
    done: dict[str, Entry] = {}
    groups = list(orphans(_everything_of(claim, existing)))
    for group in groups:
        await prune_group(server, group, done)
    if len(done) == sum(map(len, groups)):
        await sure(delete_claim(server, gone.variable))
    else:
        # Somebody holds a limit of it by hand; the claim stays, so that the limit is found by the next prune.
        await sure(write_claim(server, replace(claim, cards={}), replace=True))

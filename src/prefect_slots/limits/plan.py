"""The plan of a registration: limits to create, change or leave on the server. Pure: no server, no clock.

A limit's number is changed only by its maker. A number that the maker did not give is a person's: one below what the
machine has stays, one above it is put back, and a deleted limit is made again. A fleet's limit is changed by the
machine that owns its number (`limits.fleet`), or, where none does, by one that last saw its present number.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from prefect_slots.limits import naming, outcome
from prefect_slots.model import LimitSpec, Scope


class Action(StrEnum):
    """The fate of one limit."""

    CREATE = "create"
    CHANGE = "change"
    UNCHANGED = "unchanged"
    ORPHANED = "orphaned"
    PRUNED = "pruned"
    CONFLICT = "conflict"
    LOWERED = "lowered"
    SWITCHED_OFF = "switched off"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One limit, as it is and as it should be.

    Attributes:
        old: Its number on the server, or `None` where it does not exist.
        new: Its number as it should be, or `None` where nothing here needs it any more.
        held: Slots that are occupied now; a change of the number leaves them occupied.
        problem: The fault of a limit in conflict, or the change that others made of it, and its remedy.
    """

    name: str
    action: Action
    old: int | None
    new: int | None
    held: int = 0
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class RegistrationPlan:
    """The entries of the limits and of this ledger's mirrors of them, each sorted by name."""

    limits: tuple[Entry, ...]
    mirrors: tuple[Entry, ...]

    @property
    def conflicts(self) -> tuple[Entry, ...]:
        """The entries that only `adopt` may touch; while there are any, nothing is written."""
        return tuple(entry for entry in (*self.limits, *self.mirrors) if entry.action is Action.CONFLICT)

    def steps(self) -> tuple[Entry, ...]:
        """Return the entries to create or change: growing mirrors first, shrinking mirrors last."""
        # In any other order, a mirror could refuse slots that its limit has to give.
        touched = (Action.CREATE, Action.CHANGE)
        mirrors = [entry for entry in self.mirrors if entry.action in touched]
        growing = [entry for entry in mirrors if (entry.new or 0) > (entry.old or 0)]
        limits = [entry for entry in self.limits if entry.action in touched]
        return (*growing, *limits, *(entry for entry in mirrors if entry not in growing))


def mirrors_in(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return each mirror among `names`, with its limit's name and its ledger's id."""
    return [(name, *parts) for name in names if (parts := naming.split_mirror(name))]


def numbers_of(existing: Mapping[str, outcome.ExistingLimit], ledgers: Collection[str]) -> dict[str, int]:
    """Return the limits mirrored by `ledgers`, with the numbers that these last gave them."""
    return {limit: existing[name].limit for name, limit, ledger in mirrors_in(existing) if ledger in ledgers}


def given_numbers(*numbers: Mapping[str, int]) -> dict[str, frozenset[int]]:
    """Return the limits of several accounts of a machine's numbers, each with all numbers that it was given.

    A registration that was broken off leaves a limit with the number of one account, and of another one behind it.
    """
    names = {name for each in numbers for name in each}
    return {name: frozenset(each[name] for each in numbers if name in each) for name in names}


def plan(
    wanted: Iterable[LimitSpec],
    existing: Mapping[str, outcome.ExistingLimit],
    ours: Mapping[str, Collection[int]],
    *,
    ledger_id: str,
    former: Collection[str] = (),
    owners: Mapping[str, str] | None = None,
    adopt: bool = False,
) -> RegistrationPlan:
    """Compare the limits that a machine needs with those of the server.

    Args:
        wanted: The limits that the server should have, without mirrors.
        existing: All limits of the server, mirrors of all ledgers included.
        ours: Limits that this machine made, with the numbers it last gave them; see `given_numbers`.
        ledger_id: The ledger to make mirrors for.
        former: Ledgers that had this machine's name before; their mirrors are orphaned.
        owners: The ledgers that own the numbers of fleet limits.
        adopt: Take over limits that this machine did not make.
    """
    owners = owners or {}
    specs = {spec.name: spec for spec in wanted}
    limits = [
        _judge(
            spec,
            existing.get(name),
            ours.get(name, ()),
            ours=spec.scope is Scope.WORKER or owners.get(name, ledger_id) == ledger_id,
            owned=owners.get(name) == ledger_id,
            adopt=adopt,
        )
        for name, spec in specs.items()
    ]
    # A limit that another machine mirrors is still in use there, though this one needs it no more.
    limits += [
        _orphan(name, existing[name])
        for name in ours
        if name in existing and name not in specs and not _mirrored_by_others(name, existing, {ledger_id, *former})
    ]
    # Nobody else makes a mirror of this ledger: its number is always ours to change.
    own = [replace(spec, name=naming.mirror_of(name, ledger_id), scope=Scope.WORKER) for name, spec in specs.items()]
    mirrors = [_judge(spec, existing.get(spec.name), (), ours=True, owned=False, adopt=True) for spec in own]
    for name, limit, ledger in mirrors_in(existing):
        if ledger in former or (ledger == ledger_id and limit not in specs):
            mirrors.append(_orphan(name, existing[name]))
    return RegistrationPlan(limits=_sorted(limits), mirrors=_sorted(mirrors))


def _orphan(name: str, found: outcome.ExistingLimit) -> Entry:
    return Entry(name=name, action=Action.ORPHANED, old=found.limit, new=None, held=found.active_slots)


def _sorted(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.name))


def _mirrored_by_others(name: str, existing: Mapping[str, outcome.ExistingLimit], ledgers: Collection[str]) -> bool:
    return any(limit == name and ledger not in ledgers for _, limit, ledger in mirrors_in(existing))


def _judge(
    spec: LimitSpec,
    found: outcome.ExistingLimit | None,
    given: Collection[int],
    *,
    ours: bool,
    owned: bool,
    adopt: bool,
) -> Entry:
    if found is None:
        again = f"was deleted or renamed on the server; it is made again with {spec.limit}" if given else ""
        return Entry(name=spec.name, action=Action.CREATE, old=None, new=spec.limit, problem=again)
    action, problem = _verdict(spec, found, given, ours=ours, owned=owned, adopt=adopt)
    return Entry(
        name=spec.name, action=action, old=found.limit, new=spec.limit, held=found.active_slots, problem=problem
    )


def _verdict(
    spec: LimitSpec, found: outcome.ExistingLimit, given: Collection[int], *, ours: bool, owned: bool, adopt: bool
) -> tuple[Action, str]:
    if found.decay > 0:
        # It forgets who holds its slots, so that more would be given than there are.
        return Action.CONFLICT, f"its slots decay; `prefect gcl update '{spec.name}' --slot-decay-per-second 0`"
    if not found.active:
        # Switched on by us it would lose count: a lease granted meanwhile subtracts slots that it never took.
        remedy = f"when nothing runs, `prefect gcl enable '{spec.name}'`"
        if given and not adopt:
            return Action.SWITCHED_OFF, f"was switched off on the server, so nothing new starts on it; {remedy}"
        return Action.CONFLICT, f"it is switched off, so it counts nothing; {remedy}"
    if found.limit == spec.limit:
        return Action.UNCHANGED, ""
    if adopt or (ours and found.limit in given):
        return Action.CHANGE, ""
    if given or spec.scope is Scope.FLEET:
        if found.limit > spec.limit and spec.scope is Scope.FLEET and not owned:
            more = f"is {found.limit} on the server, more than the {spec.limit} that this machine knows of"
            return Action.UNCHANGED, f"{more}; `prefect-slots register --adopt` makes this machine's number the fleet's"
        if found.limit > spec.limit:
            more = f"was set to {found.limit} on the server, more than the {spec.limit} that this machine has"
            return Action.CHANGE, f"{more}; it is put back"
        less = f"was lowered to {found.limit} on the server, this machine has {spec.limit}: no more is granted"
        return Action.LOWERED, f"{less}; raise it there, or run `prefect-slots register --adopt`"
    return Action.CONFLICT, "this machine did not make it; `prefect-slots register --adopt` takes it over"

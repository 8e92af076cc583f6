"""What to do to the server's limits so that they equal what a machine has. Pure: no server, no clock.

A limit's number is changed only by whoever made it. For a fleet's limit, which several machines make, that is whoever
last saw it as it now is: a machine with an outdated file is refused instead of undoing what another has just changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from prefect_slots.limits.naming import mirror_of, split_mirror
from prefect_slots.limits.outcome import ExistingLimit
from prefect_slots.model.registered import LimitSpec
from prefect_slots.model.resource import Scope


class Action(StrEnum):
    """What becomes of one limit."""

    CREATE = "create"
    CHANGE = "change"
    UNCHANGED = "unchanged"
    ORPHANED = "orphaned"
    PRUNED = "pruned"
    CONFLICT = "conflict"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One limit, as it is and as it should be.

    Attributes:
        old: Its number on the server, or `None` where it does not exist.
        new: Its number as it should be, or `None` where nothing here needs it any more.
        held: Slots that are occupied now; they stay so whatever happens to the number.
        problem: What is wrong with it and what to do, for a conflict.
    """

    name: str
    action: Action
    old: int | None
    new: int | None
    held: int = 0
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class RegistrationPlan:
    """What to do, limits and this ledger's mirrors of them apart; both sorted by name."""

    limits: tuple[Entry, ...]
    mirrors: tuple[Entry, ...]

    @property
    def conflicts(self) -> tuple[Entry, ...]:
        """What must not be touched without being told to; nothing else may be done while there are any."""
        return tuple(entry for entry in (*self.limits, *self.mirrors) if entry.action is Action.CONFLICT)

    def steps(self) -> tuple[Entry, ...]:
        """Return what is to be created or changed, mirrors that grow first and mirrors that shrink last.

        So a mirror never refuses slots that its limit has, and will have, to give.
        """
        touched = (Action.CREATE, Action.CHANGE)
        mirrors = [entry for entry in self.mirrors if entry.action in touched]
        growing = [entry for entry in mirrors if (entry.new or 0) > (entry.old or 0)]
        limits = [entry for entry in self.limits if entry.action in touched]
        return (*growing, *limits, *(entry for entry in mirrors if entry not in growing))


def numbers_of(existing: Mapping[str, ExistingLimit], ledgers: Collection[str]) -> dict[str, int]:
    """Return the limits that `ledgers` have mirrors of, with the numbers they last gave them."""
    found: dict[str, int] = {}
    for name, limit in existing.items():
        parts = split_mirror(name)
        if parts and parts[1] in ledgers:
            found[parts[0]] = limit.limit
    return found


def plan(
    wanted: Iterable[LimitSpec],
    existing: Mapping[str, ExistingLimit],
    ours: Mapping[str, int],
    *,
    ledger_id: str,
    former: Collection[str] = (),
    adopt: bool = False,
) -> RegistrationPlan:
    """Compare what a machine has with what the server has.

    Args:
        wanted: The limits that the server should have, without mirrors.
        existing: Everything the server has, mirrors of all ledgers included.
        ours: Limits that this machine made, with the numbers it last gave them.
        ledger_id: Whose mirrors to make.
        former: Ledgers that had this machine's name before; their mirrors are orphaned.
        adopt: Take over limits that this machine did not make.
    """
    specs = {spec.name: spec for spec in wanted}
    limits = [_judge(spec, existing.get(name), ours.get(name), adopt=adopt) for name, spec in specs.items()]
    limits += [
        Entry(name=name, action=Action.ORPHANED, old=existing[name].limit, new=None, held=existing[name].active_slots)
        for name in ours
        if name in existing and name not in specs and not _mirrored_by_others(name, existing, {ledger_id, *former})
    ]
    mirrors: list[Entry] = []
    for name, spec in specs.items():
        mirror = mirror_of(name, ledger_id)
        made_by_us = replace(spec, name=mirror, scope=Scope.WORKER)
        mirrors.append(_judge(made_by_us, existing.get(mirror), spec.limit, adopt=adopt))
    for name, limit in existing.items():
        parts = split_mirror(name)
        if parts and (parts[1] in former or (parts[1] == ledger_id and parts[0] not in specs)):
            orphan = Entry(name=name, action=Action.ORPHANED, old=limit.limit, new=None, held=limit.active_slots)
            mirrors.append(orphan)
    return RegistrationPlan(limits=_sorted(limits), mirrors=_sorted(mirrors))


def _sorted(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.name))


def _mirrored_by_others(name: str, existing: Mapping[str, ExistingLimit], ledgers: Collection[str]) -> bool:
    return any(parts[0] == name and parts[1] not in ledgers for parts in map(split_mirror, existing) if parts)


def _judge(spec: LimitSpec, found: ExistingLimit | None, last_given: int | None, *, adopt: bool) -> Entry:
    if found is None:
        return Entry(name=spec.name, action=Action.CREATE, old=None, new=spec.limit)
    problem = _defect(spec.name, found)
    if problem:
        action = Action.CONFLICT
    elif found.limit == spec.limit:
        action = Action.UNCHANGED
    elif adopt or last_given == found.limit or (last_given is not None and spec.scope is Scope.WORKER):
        action = Action.CHANGE
    else:
        action = Action.CONFLICT
        made = (
            "another machine or a person has changed it" if last_given is not None else "this machine did not make it"
        )
        problem = f"{made}; `prefect-slots register --adopt` takes it over"
    return Entry(
        name=spec.name, action=action, old=found.limit, new=spec.limit, held=found.active_slots, problem=problem
    )


def _defect(name: str, found: ExistingLimit) -> str:
    # Switching it on again here would be wrong: a lease granted meanwhile subtracts slots that it never took.
    if not found.active:
        return f"it is switched off, so it counts nothing; when nothing runs, `prefect gcl enable '{name}'`"
    if found.decay > 0:
        return f"its slots decay, so it forgets who holds them; `prefect gcl update '{name}' --slot-decay-per-second 0`"
    return ""

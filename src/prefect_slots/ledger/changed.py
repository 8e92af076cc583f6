"""Limits that others changed on the server: lowered, or switched off; and limits that were made anew.

Rows of `meta`, as JSON: the first is what `status` and waiting requests show, the second tells a limit that was deleted
and made again from the one on which leases were taken. Times are Unix times.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from prefect_slots.ledger.leases import MEND, LeaseState, in_states
from prefect_slots.ledger.sql import Tables

_CHANGED = "changed_limits"
_IDS = "limit_ids"


@dataclass(frozen=True, kw_only=True)
class ChangedLimit:
    """A limit that leaves this machine less than it has.

    Attributes:
        ours: The number that this machine has registered, or the fleet's owner.
        theirs: The number on the server.
        active: False if it was switched off, so that it counts nothing.
        seen_at: Time at which this machine saw it first.
        since: Time of the change by the server's word; `None` if it does not tell, or not yet.
        by: Author of the change by the server's word; empty if it does not tell.
    """

    limit: str
    resource: str
    ours: int
    theirs: int
    active: bool = True
    seen_at: float = 0.0
    since: float | None = None
    by: str = ""

    @property
    def deed(self) -> str:
        """The change, its author and its time, in words."""
        done = f"was lowered on the server to {self.theirs} (this machine has {self.ours})"
        if not self.active:
            done = "was switched off on the server"
        return f"{done}{told(self.since, self.by) or f', seen here first at {_time(self.seen_at)}'}"

    def __str__(self) -> str:
        return f"limit {self.limit} {self.deed}"


def told(since: float | None, by: str) -> str:
    """Return the time and the author of a change in words, as far as the server tells; empty if it tells nothing."""
    if since is None:
        return ""
    return f" at {_time(since)} {f'by {by}' if by else '(the server does not tell by whom)'}"


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def read(tables: Tables) -> tuple[ChangedLimit, ...]:
    """Return the limits that leave this machine less than it has, by name."""
    return tuple(ChangedLimit(**each) for each in json.loads(tables.meta(_CHANGED) or "[]"))


def are_off(tables: Tables, names: Collection[str]) -> bool:
    """Return whether any of these limits was switched off when this machine looked last."""
    return any(not each.active and each.limit in names for each in read(tables))


def note(tables: Tables, looked_at: Mapping[str, ChangedLimit | None]) -> None:
    """Record the limits that were looked at: changed, or (`None`) as they should be."""
    known = {each.limit: each for each in read(tables)}
    now = {name: each for name, each in known.items() if name not in looked_at}
    for name, found in looked_at.items():
        before = known.get(name)
        if found is not None and before is not None and _key(before) == _key(found):
            now[name] = before if found.since is None else replace(before, since=found.since, by=found.by)
        elif found is not None:
            now[name] = replace(found, seen_at=tables.now)
    if now != known:
        tables.set_meta(_CHANGED, json.dumps([asdict(now[name]) for name in sorted(now)]))


def _key(each: ChangedLimit) -> tuple[int, bool]:
    return each.theirs, each.active


def note_ids(tables: Tables, ids: Mapping[str, str]) -> bool:
    """Record the server's ids of limits, and give back the leases on those that were made anew.

    A lease names its limits by their ids: on a limit that was deleted and made again it counts nothing, and its release
    frees nothing. Its grant goes on and needs another lease; the actor releases the old one.

    Args:
        tables: Of a write transaction of an owner that can reach the server.
        ids: By the limit's name; a mirror's under the name of its limit, behind a `@`.

    Returns:
        True if the actor has leases to release.
    """
    known: dict[str, str] = json.loads(tables.meta(_IDS) or "{}")
    if not ids.items() - known.items():
        return False
    tables.set_meta(_IDS, json.dumps(known | dict(ids)))
    anew = {name.removeprefix("@") for name, id in ids.items() if known.get(name, id) != id}
    rows = [row for row in in_states(tables, LeaseState.LEASE, LeaseState.GHOST) if not anew.isdisjoint(row.names)]
    for row in rows:
        tables.run("UPDATE held SET unbacked=1, lost=? WHERE id=?", row.names[0], row.held)
        if row.state is LeaseState.LEASE:
            moved = "UPDATE lease SET state='releasing', held='', owner=? WHERE id=?"
            tables.run(moved, tables.actor, str(row.id))
        else:
            tables.run("DELETE FROM lease WHERE id=?", str(row.id))
            tables.set_meta(MEND, "1")
    return bool(rows)

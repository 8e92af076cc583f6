"""Leases as rows: the machine's calls to the Prefect server, from intent to release.

A lease is the server's record that slots of one or more limits are occupied. Its row is a write-ahead log: the intent
is committed before the call and the lease after the answer, so that a crash at any moment leaves a row that tells the
next process how to go on. The states of a row and its transitions:

    (none)    -> intent      the call is about to be sent                               `write_intent`
    intent    -> lease       the server has granted it                                  `write_lease`
    intent    -> (none)      the server has refused it: nothing is occupied             `forget`
    intent    -> releasing   its grant has ended, or goes on without it                 `give_up`, `go_without`
    lease     -> lease       it is renewed, or handed over to a new grant               `extend`, `hand_over`
    lease     -> ghost       the server has lost the lease and still counts its slots   `become_ghost`
    lease     -> (none)      the server counts nothing for it any more                  `lose`
    lease     -> releasing   its grant has ended and its cells are free                 `give_up`
    lease     -> lapsed      it ran out, and is left to the server's repossessor        `lapse`
    intent, lease -> releasing   its owner has died                                     `Transaction.drop_owner`
    ghost     -> (none)      its grant has ended; a repair takes its slots off          `give_up`
    releasing -> (none)      the server has released it, once                           `forget`
    releasing -> lease       a new grant that needs the same slots takes it over        `hand_over`
    releasing -> lapsed      it ran out before it could be released                     `lapse`
    lapsed    -> (none)      the repossessor has had its time                           `forget`
    (none)    -> repair      counts are being corrected: the limits are latched         `latch`
    repair    -> (none)      the correction is settled                                  `unlatch`, `forget`

A lease has one releaser, the owner of its row in state `releasing`: two releases of one lease subtract twice (measured
on a real server, 40 of 40). The order of writes and the meaning of each answer are in `docs/protocol.md`. Times are
seconds on the boot clock.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from prefect_slots.ledger.sql import Tables

# Asked for at every call and renewal: long enough to outlive a restart of the server, short enough that the slots of a
# machine that lost its power come back soon.
LEASE_SECONDS: Final = 300.0
# A lease with less life left is neither handed over nor released: the server's repossessor may be taking it back, and
# its release would then subtract a second time.
LAPSING_SECONDS: Final = 20.0
# A repair latches its limits for this long at most. A process that was stopped in the middle of one must not keep the
# machine from asking for ever.
LATCH_SECONDS: Final = 10.0
# A lease of a fleet limit changes hands on one machine this many times in a row. The server has no queue, so without a
# bound a busy machine would never let another one have the seat.
FLEET_HANDOVERS: Final = 10
# Pause after that: longer than the news of the release takes to reach the other machines.
REST_SECONDS: Final = 0.25

# Key in `meta`: the server counts slots that no grant holds, so that a repair is due.
MEND: Final = "mend"


class LeaseState(StrEnum):
    """State of a row; see the transitions at the head of the module."""

    INTENT = "intent"  # the call may or may not have been applied
    LEASE = "lease"  # recorded
    GHOST = "ghost"  # the server has forgotten the lease, and still counts its slots
    RELEASING = "releasing"  # its cells are free; its owner releases it once
    LAPSED = "lapsed"  # left to the server's own service, which takes it back some time after its deadline
    REPAIR = "repair"  # no lease: counts of these limits are being mended, so nothing may be asked of them


class Call(NamedTuple):
    """One call to the server: the same weight on each of `names`. With `fleet` the first is a fleet limit."""

    names: tuple[str, ...]
    weight: int
    fleet: bool


@dataclass(frozen=True, kw_only=True)
class LeaseRow:
    """One call that was made to the server, or is about to be.

    Attributes:
        id: Our holder id, named in the call; the mirror limits list it.
        held: The grant that it belongs to.
        owner: The process that releases it.
        sent_at: Time of the call.
        lease_id: The server's id of the lease, once its answer is known.
        deadline: Time at which the lease lapses unless renewed.
        answered: Time of the server's first answer to anything after the answer to this call was lost.
    """

    id: uuid.UUID
    held: str
    owner: str
    call: Call
    state: LeaseState
    sent_at: float
    lease_id: uuid.UUID | None = None
    deadline: float | None = None
    answered: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The limits occupied, mirrors not counted, in canonical order."""
        return self.call.names


_COLUMNS = "id, held, owner, names, weight, fleet, state, sent_at, lease_id, deadline, answered"


def _row(values: tuple[Any, ...]) -> LeaseRow:
    return LeaseRow(
        id=uuid.UUID(values[0]),
        held=values[1],
        owner=values[2],
        call=Call(tuple(json.loads(values[3])), values[4], bool(values[5])),
        state=LeaseState(values[6]),
        sent_at=values[7],
        lease_id=uuid.UUID(values[8]) if values[8] else None,
        deadline=values[9],
        answered=values[10],
    )


def _rows(tables: Tables, where: str, *values: object) -> list[LeaseRow]:
    return [_row(row) for row in tables.all(f"SELECT {_COLUMNS} FROM lease WHERE {where}", *values)]


def _insert(tables: Tables, held: str, call: Call, state: LeaseState, now: float) -> uuid.UUID:
    holder = uuid.uuid4()
    tables.run(
        "INSERT INTO lease (id, held, owner, names, weight, fleet, state, sent_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        *(str(holder), held, tables.actor, json.dumps(call.names), call.weight, call.fleet, state.value, now),
    )
    return holder


# Taking


def write_intent(tables: Tables, held: str, call: Call, now: float) -> uuid.UUID | None:
    """Record the intent of a call; return the holder id to name in it, or `None` if the grant is gone."""
    if tables.one("SELECT 1 FROM held WHERE id=? AND NOT closed", held) is None:
        return None
    return _insert(tables, held, call, LeaseState.INTENT, now)


def write_lease(tables: Tables, holder: uuid.UUID, lease_id: uuid.UUID, deadline: float) -> bool:
    """Record the server's answer, as the lease of the grant's owner.

    Returns:
        True if the grant still wants the lease. If not, the row's owner releases it.
    """
    # The grant's owner may have changed while the call was out: the lease goes to the present one.
    wanted = tables.run(
        "UPDATE lease SET lease_id=?, deadline=?, state=?, owner=(SELECT owner FROM held WHERE id=lease.held) "
        "WHERE id=? AND state=?",
        *(str(lease_id), deadline, LeaseState.LEASE.value, str(holder), LeaseState.INTENT.value),
    )
    if not wanted:
        tables.run("UPDATE lease SET lease_id=?, deadline=? WHERE id=?", str(lease_id), deadline, str(holder))
    return bool(wanted)


def in_the_way(tables: Tables, names: tuple[str, ...], now: float) -> bool:
    """Return whether this machine itself stands in the way of a call on any of these limits at this moment.

    It does while it releases slots of one, repairs its count, or leaves it to other machines. A call without an answer
    does not count: it may hold nothing, and settling it takes 15 s.
    """
    rows = tables.all(
        "SELECT names FROM lease WHERE (state=? AND lease_id IS NOT NULL) OR (state=? AND owner<>'' AND sent_at>?)",
        *(LeaseState.RELEASING.value, LeaseState.REPAIR.value, now - LATCH_SECONDS),
    )
    busy = {name for row in rows for name in json.loads(row[0])}
    busy.update(row[0] for row in tables.all("SELECT limit_name FROM rest WHERE until > ?", now))
    return not busy.isdisjoint(names)


def are_latched(tables: Tables, names: Collection[str], now: float) -> bool:
    """Return whether the count of any of these limits is under repair: nothing may be taken or released on it."""
    rows = tables.all(
        "SELECT names FROM lease WHERE state=? AND owner<>'' AND sent_at>?",
        *(LeaseState.REPAIR.value, now - LATCH_SECONDS),
    )
    return any(not set(names).isdisjoint(json.loads(row[0])) for row in rows)


def latch(tables: Tables, names: tuple[str, ...], now: float) -> uuid.UUID:
    """Keep this machine from taking or releasing slots of these limits while their counts are repaired."""
    return _insert(tables, "", Call(names, 0, fleet=False), LeaseState.REPAIR, now)


def renew_latch(tables: Tables, holder: uuid.UUID, weight: int, now: float) -> bool:
    """Record that a correction of `weight` slots is about to be sent; return whether the latch still stands.

    A process that was stopped for long must not send one: the counts that it was decided on are out of date.
    """
    sql = "UPDATE lease SET weight=?, sent_at=? WHERE id=? AND owner=? AND sent_at > ?"
    return tables.run(sql, weight, now, str(holder), tables.actor, now - LATCH_SECONDS) > 0


def unlatch(tables: Tables, holder: uuid.UUID, *, settled: bool) -> None:
    """End a latch; a correction without an answer (not `settled`) keeps its row, without an owner."""
    if settled:
        tables.run("DELETE FROM lease WHERE id=?", str(holder))
    else:
        tables.run("UPDATE lease SET owner='' WHERE id=?", str(holder))


def is_mend_due(tables: Tables) -> bool:
    """Return whether the server is known to count slots that no grant holds."""
    return tables.meta(MEND) is not None


def note_mended(tables: Tables) -> None:
    """Record that the server's counts are right."""
    tables.run("DELETE FROM meta WHERE key=?", MEND)


# Keeping


def extend(tables: Tables, holder: uuid.UUID, deadline: float) -> None:
    """Record a renewal."""
    tables.run("UPDATE lease SET deadline=? WHERE id=? AND state=?", deadline, str(holder), LeaseState.LEASE.value)


def become_ghost(tables: Tables, holder: uuid.UUID) -> None:
    """Record that the server has lost a lease and still counts its slots, if a grant still wants it."""
    tables.run(
        "UPDATE lease SET state=?, lease_id=NULL, deadline=NULL WHERE id=? AND state=?",
        *(LeaseState.GHOST.value, str(holder), LeaseState.LEASE.value),
    )


def lose(tables: Tables, holder: uuid.UUID) -> None:
    """Record that the server counts nothing for a lease any more: its grant, which goes on, needs another."""
    _bereave(tables, holder)
    tables.run("DELETE FROM lease WHERE id=? AND state=?", str(holder), LeaseState.LEASE.value)


def _bereave(tables: Tables, holder: uuid.UUID) -> None:
    row = get(tables, holder)
    if row is not None and row.state is LeaseState.LEASE:
        tables.run("UPDATE held SET unbacked=1, lost=? WHERE id=?", row.names[0], row.held)


def note_exposed(tables: Tables, limit: str) -> None:
    """Mark the holders of `limit` as exposed: the server counted too little, and others could take the same slots."""
    holding = [row.held for row in in_states(tables, LeaseState.LEASE, LeaseState.GHOST) if limit in row.names]
    for held in holding:
        tables.run("UPDATE held SET lost=? WHERE id=?", limit, held)


def lost(tables: Tables, held: str) -> str | None:
    """Return a limit on which a grant was exposed: for a while others could take its slots."""
    row = tables.one("SELECT lost FROM held WHERE id=?", held)
    return row[0] if row else None


def go_without(tables: Tables, held: str) -> None:
    """Let a grant go on although the server does not count all of it.

    A call without an answer is released once it has settled, and then made again.
    """
    tables.run("UPDATE held SET unbacked=1 WHERE id=?", held)
    tables.run(
        "UPDATE lease SET state=?, held='' WHERE held=? AND state=?",
        *(LeaseState.RELEASING.value, held, LeaseState.INTENT.value),
    )


def unbacked(tables: Tables) -> dict[str, str]:
    """Return the ids and labels of grants that the server does not count in full, by arrival."""
    return dict(tables.all("SELECT id, label FROM held WHERE unbacked AND NOT closed ORDER BY seq"))


def note_backed(tables: Tables, held: str) -> None:
    """Record that the server counts all of a grant again."""
    tables.run("UPDATE held SET unbacked=0 WHERE id=?", held)


def refusals(tables: Tables, held: str) -> int:
    """Return the number of times that the server has refused a grant and sent its ticket back."""
    row = tables.one("SELECT refusals FROM held WHERE id=?", held)
    return row[0] if row else 0


def lapse(tables: Tables, holder: uuid.UUID) -> None:
    """Leave a lease to the server's repossessor; a grant that goes on needs another."""
    _bereave(tables, holder)
    tables.run(
        "UPDATE lease SET state=?, held='', owner='', deadline=COALESCE(deadline, sent_at + ?) WHERE id=?",
        *(LeaseState.LAPSED.value, LEASE_SECONDS, str(holder)),
    )


# Giving back


def note_answered(tables: Tables, holder: uuid.UUID, now: float | None) -> None:
    """Record the server's first answer after a lost one, or (`None`) that another call may be on its way."""
    tables.run("UPDATE lease SET answered=? WHERE id=?", now, str(holder))


def give_up(tables: Tables, held: str) -> None:
    """Give up the leases of a grant whose cells are freed in this transaction.

    The actor becomes their one releaser if it can reach the server.
    """
    found = _rows(tables, "held=?", held)
    if not found:
        return
    tables.spare += [str(row.id) for row in found if row.state is LeaseState.LEASE]
    # A ghost has no lease to release: only a repair can take its slots off the count.
    if tables.run("DELETE FROM lease WHERE held=? AND state=?", held, LeaseState.GHOST.value):
        tables.set_meta(MEND, "1")
    tables.run("UPDATE lease SET state=? WHERE held=?", LeaseState.RELEASING.value, held)
    if tables.releases:
        tables.run("UPDATE lease SET owner=? WHERE held=?", tables.actor, held)


def hand_over(tables: Tables, held: str, calls: Iterable[Call], now: float) -> None:
    """Hand spare leases over to a new grant, where one is exactly a call that it needs: no request is sent for it.

    The remaining calls are left to the grant's owner.
    """
    # Only an owner that can reach the server may inherit a lease: another could neither renew nor release it.
    heir = tables.one("SELECT o.id FROM held h JOIN owner o ON o.id=h.owner WHERE h.id=? AND o.releases", held)
    if heir is None:
        return
    spare = [row for row in (get(tables, uuid.UUID(holder)) for holder in tables.spare) if row is not None]
    for call in calls:
        for row in spare:
            fresh = row.deadline is not None and row.deadline > now + LAPSING_SECONDS
            if row.call == call and fresh and _may_stay_here(tables, row):
                tables.run(
                    "UPDATE lease SET held=?, owner=?, state=?, handovers=handovers+1 WHERE id=?",
                    *(held, heir[0], LeaseState.LEASE.value, str(row.id)),
                )
                spare.remove(row)
                tables.spare.remove(str(row.id))
                break


def _may_stay_here(tables: Tables, row: LeaseRow) -> bool:
    if not row.call.fleet:
        return True
    found = tables.one("SELECT handovers FROM lease WHERE id=?", str(row.id))
    return found is not None and found[0] < FLEET_HANDOVERS


def forget(tables: Tables, holder: uuid.UUID, now: float) -> None:
    """Delete the row of a lease that the server no longer counts.

    A fleet limit whose lease has changed hands here often enough is then left to other machines for `REST_SECONDS`.
    """
    row = tables.one("SELECT names, fleet, handovers FROM lease WHERE id=?", str(holder))
    if row is not None and row[1] and row[2] >= FLEET_HANDOVERS:
        tables.run(
            "INSERT INTO rest VALUES (?, ?) ON CONFLICT (limit_name) DO UPDATE SET until=excluded.until",
            *(json.loads(row[0])[0], now + REST_SECONDS),
        )
    tables.run("DELETE FROM lease WHERE id=?", str(holder))


# Looking


def get(tables: Tables, holder: uuid.UUID) -> LeaseRow | None:
    """Return one row, if it is still there."""
    found = _rows(tables, "id=?", str(holder))
    return found[0] if found else None


def of_grant(tables: Tables, held: str) -> list[LeaseRow]:
    """Return the leases and intents of a grant."""
    # A ticket that the server sent back keeps its id: rows of its former grant are on their way out.
    return _rows(tables, "held=? AND state<>?", held, LeaseState.RELEASING.value)


def to_release(tables: Tables) -> list[LeaseRow]:
    """Return the leases that the actor is to release, the latest first."""
    return _rows(tables, "owner=? AND state=? ORDER BY sent_at DESC", tables.actor, LeaseState.RELEASING.value)


def in_states(tables: Tables, *states: LeaseState) -> list[LeaseRow]:
    """Return all of the machine's rows in any of `states`."""
    marks = ", ".join("?" * len(states))
    return _rows(tables, f"state IN ({marks}) ORDER BY deadline", *(state.value for state in states))

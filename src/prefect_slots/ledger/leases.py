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

import json
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from prefect_slots.ledger.sql import Tables

# Asked for at every call and renewal: long enough to outlive a restart of the server, short enough that the slots of a
# machine that lost its power come back soon.
LEASE_SECONDS = 300.0
# A lease with less life left is neither handed over nor released: the server's repossessor may be taking it back, and
# its release would then subtract a second time.
LAPSING_SECONDS = 20.0
# A repair latches its limits for this long at most. A process that was stopped in the middle of one must not keep the
# machine from asking for ever.
LATCH_SECONDS = 10.0
# A lease of a fleet limit changes hands on one machine this many times in a row. The server has no queue, so without a
# bound a busy machine would never let another one have the seat.
FLEET_HANDOVERS = 10
# Pause after that: longer than the news of the release takes to reach the other machines.
REST_SECONDS = 0.25

# Key in `meta`: the server counts slots that no grant holds, so that a repair is due.
MEND = "mend"


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


@dataclass(frozen=True)
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
        handovers: Number of times that the lease has changed hands on this machine.
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
    handovers: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The limits occupied, mirrors not counted, in canonical order."""
        return self.call.names


_COLUMNS = "id, held, owner, names, weight, fleet, state, sent_at, lease_id, deadline, answered, handovers"
_LATCHED = "(state='repair' AND owner<>'' AND sent_at>?)"


def _rows(tables: Tables, where: str, *values: object) -> list[LeaseRow]:
    rows = tables.all(f"SELECT {_COLUMNS} FROM lease WHERE {where}", *values)
    return [_row(*row[:3], Call(tuple(json.loads(row[3])), row[4], bool(row[5])), *row[6:]) for row in rows]


def _row(holder: str, held: str, owner: str, call: Call, state: str, sent_at: float, *answer: Any) -> LeaseRow:
    lease_id = uuid.UUID(answer[0]) if answer[0] else None
    return LeaseRow(uuid.UUID(holder), held, owner, call, LeaseState(state), sent_at, lease_id, *answer[1:])


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
        "UPDATE lease SET lease_id=?, deadline=?, state='lease', owner=(SELECT owner FROM held WHERE id=lease.held) "
        "WHERE id=? AND state='intent'",
        *(str(lease_id), deadline, str(holder)),
    )
    if not wanted:
        tables.run("UPDATE lease SET lease_id=?, deadline=? WHERE id=?", str(lease_id), deadline, str(holder))
    return bool(wanted)


def in_the_way(tables: Tables, names: tuple[str, ...], now: float) -> bool:
    """Return whether this machine itself stands in the way of a call on any of these limits at this moment.

    It does while it releases slots of one, repairs its count, or leaves it to other machines. A call without an answer
    does not count: it may hold nothing, and settling it takes 15 s.
    """
    sql = f"SELECT names FROM lease WHERE {_LATCHED} OR (state='releasing' AND lease_id IS NOT NULL)"
    busy = {name for called in tables.column(sql, now - LATCH_SECONDS) for name in json.loads(called)}
    busy.update(tables.column("SELECT limit_name FROM rest WHERE until > ?", now))
    return not busy.isdisjoint(names)


def are_latched(tables: Tables, names: Collection[str], now: float) -> bool:
    """Return whether the count of any of these limits is under repair: nothing may be taken or released on it."""
    latched = tables.column(f"SELECT names FROM lease WHERE {_LATCHED}", now - LATCH_SECONDS)
    return any(not set(names).isdisjoint(json.loads(each)) for each in latched)


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
    tables.run("DELETE FROM lease WHERE id=?" if settled else "UPDATE lease SET owner='' WHERE id=?", str(holder))


def is_mend_due(tables: Tables) -> bool:
    """Return whether the server is known to count slots that no grant holds."""
    return tables.meta(MEND) is not None


def note_mended(tables: Tables) -> None:
    """Record that the server's counts are right."""
    tables.run("DELETE FROM meta WHERE key=?", MEND)


# Keeping


def extend(tables: Tables, holder: uuid.UUID, deadline: float) -> None:
    """Record a renewal."""
    tables.run("UPDATE lease SET deadline=? WHERE id=? AND state='lease'", deadline, str(holder))


def extend_releasing(tables: Tables, holder: uuid.UUID, deadline: float) -> None:
    """Record a renewal of a lease whose release must wait."""
    tables.run("UPDATE lease SET deadline=? WHERE id=? AND state='releasing'", deadline, str(holder))


def become_ghost(tables: Tables, holder: uuid.UUID) -> None:
    """Record that the server has lost a lease and still counts its slots, if a grant still wants it."""
    sql = "UPDATE lease SET state='ghost', lease_id=NULL, deadline=NULL WHERE id=? AND state='lease'"
    tables.run(sql, str(holder))


def lose(tables: Tables, holder: uuid.UUID) -> None:
    """Record that the server counts nothing for a lease any more: its grant, which goes on, needs another."""
    _bereave(tables, holder)
    tables.run("DELETE FROM lease WHERE id=? AND state='lease'", str(holder))


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
    return tables.value("SELECT lost FROM held WHERE id=?", held)


def go_without(tables: Tables, held: str) -> None:
    """Let a grant go on although the server does not count all of it.

    A call without an answer is released once it has settled, and then made again.
    """
    tables.run("UPDATE held SET unbacked=1 WHERE id=?", held)
    tables.run("UPDATE lease SET state='releasing', held='' WHERE held=? AND state='intent'", held)


def unbacked(tables: Tables) -> dict[str, str]:
    """Return the ids and labels of grants that the server does not count in full, by arrival."""
    return dict(tables.all("SELECT id, label FROM held WHERE unbacked AND NOT closed ORDER BY seq"))


def note_backed(tables: Tables, held: str) -> None:
    """Record that the server counts all of a grant again."""
    tables.run("UPDATE held SET unbacked=0 WHERE id=?", held)


def refusals(tables: Tables, held: str) -> int:
    """Return the number of times that the server has refused a grant and sent its ticket back."""
    return tables.value("SELECT refusals FROM held WHERE id=?", held) or 0


def lapse(tables: Tables, holder: uuid.UUID) -> None:
    """Leave a lease to the server's repossessor; a grant that goes on needs another."""
    _bereave(tables, holder)
    tables.run(
        "UPDATE lease SET state='lapsed', held='', owner='', deadline=COALESCE(deadline, sent_at + ?) WHERE id=?",
        *(LEASE_SECONDS, str(holder)),
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
    if tables.run("DELETE FROM lease WHERE held=? AND state='ghost'", held):
        tables.set_meta(MEND, "1")
    tables.run("UPDATE lease SET state='releasing' WHERE held=?", held)
    if tables.releases:
        tables.run("UPDATE lease SET owner=? WHERE held=?", tables.actor, held)


def hand_over(tables: Tables, held: str, calls: Iterable[Call], now: float) -> None:
    """Hand spare leases over to a new grant, where one is exactly a call that it needs: no request is sent for it.

    The remaining calls are left to the grant's owner.
    """
    # Only an owner that can reach the server may inherit a lease: another could neither renew nor release it.
    heir = tables.value("SELECT o.id FROM held h JOIN owner o ON o.id=h.owner WHERE h.id=? AND o.releases", held)
    if heir is None:
        return
    spare = [row for row in (get(tables, uuid.UUID(holder)) for holder in tables.spare) if row is not None]
    for call in calls:
        for row in spare:
            fresh = row.deadline is not None and row.deadline > now + LAPSING_SECONDS
            if row.call == call and fresh and not _is_due_elsewhere(row):
                tables.run(
                    "UPDATE lease SET held=?, owner=?, state='lease', handovers=handovers+1 WHERE id=?",
                    *(held, heir, str(row.id)),
                )
                spare.remove(row)
                tables.spare.remove(str(row.id))
                break


def _is_due_elsewhere(row: LeaseRow) -> bool:
    return row.call.fleet and row.handovers >= FLEET_HANDOVERS


def forget(tables: Tables, holder: uuid.UUID, now: float) -> None:
    """Delete the row of a lease that the server no longer counts.

    A fleet limit whose lease has changed hands here often enough is then left to other machines for `REST_SECONDS`.
    """
    row = get(tables, holder)
    if row is not None and _is_due_elsewhere(row):
        tables.run(
            "INSERT INTO rest VALUES (?, ?) ON CONFLICT (limit_name) DO UPDATE SET until=excluded.until",
            *(row.names[0], now + REST_SECONDS),
        )
    tables.run("DELETE FROM lease WHERE id=?", str(holder))


# Looking


def get(tables: Tables, holder: uuid.UUID) -> LeaseRow | None:
    """Return one row, if it is still there."""
    return next(iter(_rows(tables, "id=?", str(holder))), None)


def of_grant(tables: Tables, held: str) -> list[LeaseRow]:
    """Return the leases and intents of a grant."""
    # A ticket that the server sent back keeps its id: rows of its former grant are on their way out.
    return _rows(tables, "held=? AND state<>'releasing'", held)


def to_release(tables: Tables) -> list[LeaseRow]:
    """Return the leases that the actor is to release, the latest first."""
    return _rows(tables, "owner=? AND state='releasing' ORDER BY sent_at DESC", tables.actor)


def in_states(tables: Tables, *states: LeaseState) -> list[LeaseRow]:
    """Return all of the machine's rows in any of `states`."""
    marks = ", ".join("?" * len(states))
    return _rows(tables, f"state IN ({marks}) ORDER BY deadline", *(state.value for state in states))

"""Counts of this machine's part at the server: compared with the ledger's, and made true by difference.

A server that keeps its leases in memory forgets them at a restart and still counts their slots. The mirror limits tell
the server's count for this ledger, the tag route lists our leases that it still knows, and the ledger has the true
holders. Slots without a holder are taken off limit and mirror together. A count is never set outright, which would
erase slots of others and increments in flight.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from prefect_slots.errors import LimitMissing
from prefect_slots.leases.release import SETTLED_SECONDS
from prefect_slots.ledger import failpoints, leases, registry, store, transaction
from prefect_slots.limits import naming, outcome
from prefect_slots.limits.gateway import Gateway
from prefect_slots.system import clock

# The server may take a lapsed lease back within two rounds of its service; the rest is margin.
REPOSSESSED_SECONDS = 35.0
# A request of a living process is answered or given up within 30 s.
_STOPPED_SECONDS = 60.0
# The server surely counts slots of these rows, and perhaps those of a call or release under way.
_HELD = (leases.LeaseState.LEASE, leases.LeaseState.GHOST)
_UNDER_WAY = (leases.LeaseState.INTENT, leases.LeaseState.RELEASING, leases.LeaseState.LAPSED)
# Rows of these states end by themselves once their calls have settled; no count can be judged before.
UNSETTLED = (*_UNDER_WAY, leases.LeaseState.REPAIR)
Rows = Mapping[UUID, leases.LeaseRow]
_log = logging.getLogger("prefect_slots")


@dataclass(frozen=True, kw_only=True)
class Count:
    """One limit at the server and in the ledger.

    Attributes:
        active: Slots that the server counts on the limit.
        mirror: Slots that it counts on this ledger's mirror of it; `None` without a mirror.
        others: Slots that it counts on other ledgers' mirrors of it, as far as they were read.
        least: Slots that this ledger surely holds.
        most: The same with calls whose answer is not known yet.
    """

    active: int = 0
    mirror: int | None = None
    others: int = 0
    least: int = 0
    most: int = 0

    @property
    def ours(self) -> int:
        """The server's count of this ledger's slots."""
        return self.mirror or 0

    @property
    def excess(self) -> int:
        """Slots counted for this ledger that it does not hold."""
        return max(0, self.ours - self.most)

    @property
    def lacking(self) -> int:
        """Slots held by this ledger and other ones that the limit does not count."""
        return max(0, self.least + self.others - max(0, self.active - self.excess))

    @property
    def lacking_on_mirror(self) -> int:
        """Slots held by this ledger that its mirror does not count."""
        return max(0, self.least - self.ours)

    @property
    def foreign(self) -> int:
        """Slots that no ledger accounts for."""
        return max(0, self.active - self.ours - self.others)

    @property
    def drifts(self) -> bool:
        """True if the server counts other slots than are held."""
        return bool(self.excess or self.lacking or self.lacking_on_mirror)


def snapshot(tx: transaction.Transaction) -> Rows:
    """Return the rows whose slots the server counts, or may count."""
    return {row.id: row for row in leases.in_states(tx, *_HELD, *_UNDER_WAY)}


def held(limit: str, before: Rows, after: Rows) -> tuple[int, int]:
    """Return the least and the most slots of a limit that the ledger held while the server was read.

    Args:
        limit: Without its mirror.
        before: Snapshot from before the server was read.
        after: Snapshot from after it.
    """
    rows = [row for row in {**before, **after}.values() if limit in row.names]
    sure = [row for row in rows if all(row.id in seen and seen[row.id].state in _HELD for seen in (before, after))]
    return sum(row.call.weight for row in sure), sum(row.call.weight for row in rows)


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """One change of a count.

    Attributes:
        change: Slots added to the server's count; negative for slots that nobody held.
    """

    limit: str
    change: int

    def __str__(self) -> str:
        if self.change < 0:
            return f"{self.limit}: {-self.change} taken off, which the server counted for this machine and nobody holds"
        return f"{self.limit}: {self.change} added, which this machine holds and the server did not count"


@dataclass(frozen=True, kw_only=True)
class Reading(Count):
    """A limit as the server has it.

    Attributes:
        listed: Holder ids of our leases that the server knows.
    """

    listed: frozenset[UUID] = frozenset()


def limits_of(tx: transaction.Transaction) -> tuple[str, ...]:
    """Return the limits that this machine occupies slots of, in canonical form and without mirrors."""
    registered = registry.registered(tx)
    if registered.machine is None:
        return ()
    return tuple(spec.name for spec in naming.specs(registered.machine, registered.stocks))


async def is_suspicious(ledger: store.Ledger, gateway: Gateway) -> bool:
    """Tell whether the server may count this machine's part wrongly; keeps nobody from taking or giving back.

    Slots taken or given back meanwhile may be counted or not; a difference beyond them is suspicious. So are rows of
    a former repair or of a lapsed lease, which only a repair clears away.

    Raises:
        ServerUnreachable, ServerRefused: if the server does not take part.
    """
    if ledger.read(lambda tx: leases.in_states(tx, leases.LeaseState.REPAIR, leases.LeaseState.LAPSED)):
        return True
    for name in ledger.read(limits_of):
        before = ledger.read(snapshot)
        count = await _counted(gateway, name)
        least, most = held(name, before, ledger.read(snapshot))
        if count is not None and replace(count, least=least, most=most).drifts:
            return True
    return False


async def reconcile(ledger: store.Ledger, gateway: Gateway, *, answering_since: float) -> tuple[Repaired, ...]:
    """Make the server's counts of this machine's part true; no holder is disturbed.

    Limits with a call or release under way are left for the next repair.

    Args:
        ledger: Ledger of the machine.
        gateway: Gateway to the server.
        answering_since: Boot-clock time since which the server is known to answer, in seconds: it takes lapsed leases
            back only while it runs.

    Raises:
        ServerUnreachable, ServerRefused: changes made until then stay.
    """
    latched = ledger.transact(lambda tx: _latch(tx, clock.boot_clock(), answering_since))
    if latched is None:
        return ()
    holder, names = latched
    failpoints.reached(failpoints.Point.LATCHED)
    settled = True
    try:
        # Read before the server's list: a lease that is released meanwhile is no stray.
        known = ledger.read(lambda tx: {row.id for row in leases.in_states(tx, *leases.LeaseState)})
        counts = {name: count for name in names if (count := await _read(gateway, name)) is not None}
        # A release of a stray whose answer is lost is not repeated either before it has settled.
        settled = False
        strays = await _release_strays(gateway, counts, known)
        settled = True
        if strays:
            return ()
        done: list[Repaired] = []
        for name, is_mirror, change in ledger.transact(lambda tx: _judge(tx, counts, clock.boot_clock())):
            slots = abs(change)
            # A latch that ran out lets others change the counts, and then the difference is no longer known.
            if not ledger.transact(lambda tx, weight=slots: leases.renew_latch(tx, holder, weight, clock.boot_clock())):
                return tuple(done)
            failpoints.reached(failpoints.Point.REPAIR_WRITTEN)
            counted = gateway.mirror(name) if is_mirror else name
            settled = False
            await (gateway.subtract(name, slots) if change < 0 else gateway.add(counted, slots))
            settled = True
            failpoints.reached(failpoints.Point.REPAIRED)
            done.append(Repaired(limit=counted, change=change))
            _log.warning("repaired %s", done[-1])
        ledger.transact(lambda tx: _done(tx, names), frees=True)
        return tuple(done)
    except outcome.UnknownOutcome as lost:
        _log.debug("a repair may or may not have been applied: %s", lost)
        return ()
    finally:
        ledger.transact(lambda tx: leases.unlatch(tx, holder, settled=settled), frees=True)


def _latch(tx: transaction.Transaction, now: float, answering_since: float) -> tuple[UUID, tuple[str, ...]] | None:
    """Keep this machine from changing the counts of the limits that are at rest."""
    for row in leases.in_states(tx, leases.LeaseState.LAPSED):
        if now > max(row.deadline or 0.0, answering_since) + REPOSSESSED_SECONDS:
            leases.forget(tx, row.id, now)
    for row in leases.in_states(tx, leases.LeaseState.REPAIR):
        never_sent = row.call.weight == 0 and now > row.sent_at + leases.LATCH_SECONDS
        owed = SETTLED_SECONDS if not row.owner else _STOPPED_SECONDS
        if never_sent or now > max(row.sent_at, answering_since) + owed:
            leases.forget(tx, row.id, now)
    waited_for = leases.in_states(tx, *UNSETTLED)
    waited_for += [row for row in leases.in_states(tx, leases.LeaseState.LEASE) if _may_be_expired(row, now)]
    busy = _connected(tx, {name for row in waited_for for name in row.names})
    names = tuple(name for name in limits_of(tx) if name not in busy)
    return (leases.latch(tx, names, now), names) if names else None


def _may_be_expired(row: leases.LeaseRow, now: float) -> bool:
    return row.deadline is not None and now > row.deadline - leases.LAPSING_SECONDS


def _connected(tx: transaction.Transaction, names: set[str]) -> set[str]:
    # A lease stands for all its limits at once, so a limit that is left out takes its neighbours with it.
    groups = {frozenset(row.names) for row in leases.in_states(tx, *leases.LeaseState)}
    reached_names = set(names)
    while more := [group for group in groups if group & reached_names and not group <= reached_names]:
        reached_names.update(*more)
    return reached_names


async def _read(gateway: Gateway, name: str) -> Reading | None:
    # The list first: a slot whose lease is gone from it must be gone from a count that is read later.
    try:
        listed = frozenset(await gateway.holders(name))
    except LimitMissing:
        return None
    count = await _counted(gateway, name)
    return None if count is None else replace(count, listed=listed)


async def _counted(gateway: Gateway, name: str) -> Reading | None:
    # The mirror first: a slot taken between the two answers then looks like foreign use, not like a lost one.
    mirror, limit = await gateway.read(gateway.mirror(name)), await gateway.read(name)
    if limit is None or mirror is None or not limit.active or not mirror.active:
        return None
    return Reading(active=limit.active_slots, mirror=mirror.active_slots)


async def _release_strays(gateway: Gateway, counts: Mapping[str, Reading], known: Collection[UUID]) -> bool:
    """Give back leases that the server lists as ours and the ledger does not know; tell whether there were any."""
    strays: dict[UUID, list[str]] = {}
    for name, count in counts.items():
        for holder in count.listed.difference(known):
            strays.setdefault(holder, []).append(name)
    for holder, names in strays.items():
        _log.warning("giving back slots of %s that this machine took and nobody holds", ", ".join(names))
        await gateway.release_by_holder(tuple(names), holder)
    return bool(strays)


def _judge(tx: transaction.Transaction, counts: Mapping[str, Reading], now: float) -> list[tuple[str, bool, int]]:
    """Note the state of each recorded lease: alive, ghost or lost.

    Returns:
        Changes of counts: the limit, `True` if only its mirror is changed, and the slots to add, negative for slots to
            take off limit and mirror together; those first.
    """
    rest = Counter({name: count.ours for name, count in counts.items()})
    forgotten: list[leases.LeaseRow] = []
    for row in leases.in_states(tx, leases.LeaseState.GHOST, leases.LeaseState.LEASE, leases.LeaseState.RELEASING):
        ours = [name for name in row.names if name in counts]
        if not ours:
            continue
        is_listed = any(row.id in counts[name].listed for name in ours)
        if row.state is leases.LeaseState.RELEASING and not is_listed:
            continue  # its release waits for this repair, and will free nothing
        if row.state is leases.LeaseState.LEASE and not is_listed and not _may_be_expired(row, now):
            forgotten.append(row)
        else:
            rest.subtract(dict.fromkeys(ours, row.call.weight))
    # Rule 18: slots that the mirror still counts are kept as a ghost; a second lease would count them twice.
    for row in forgotten:
        ours = [name for name in row.names if name in counts]
        if all(rest[name] >= row.call.weight for name in ours):
            leases.become_ghost(tx, row.id)
            rest.subtract(dict.fromkeys(ours, row.call.weight))
        else:
            leases.lose(tx, row.id)
    changes: list[tuple[str, bool, int]] = []
    for name, count in counts.items():
        held_here = count.ours - rest[name]
        true = replace(count, least=held_here, most=held_here)
        if true.lacking:
            leases.note_exposed(tx, name)
        changes += [(name, False, -true.excess), (name, False, true.lacking), (name, True, true.lacking_on_mirror)]
    return sorted((change for change in changes if change[2]), key=lambda change: change[2] > 0)


def _done(tx: transaction.Transaction, names: Iterable[str]) -> None:
    if set(limits_of(tx)) <= set(names):
        leases.note_mended(tx)

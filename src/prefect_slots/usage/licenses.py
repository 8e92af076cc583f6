"""A look at the license servers, written into the ledger: seats in use by people outside are not free.

Our own seats are told apart by user, host and number of seats, with some time for our tasks to take them and for the
server to show it. User names are looked up, compared and forgotten; none is logged or written.
"""

import logging
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from prefect_slots.detect.licenses import client, outside, report, reservations
from prefect_slots.detect.licenses.here import Here
from prefect_slots.ledger import queries, registry, usage
from prefect_slots.ledger.folder import is_shared
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.model import Scope, amount, book, declaration, finding, license_resource
from prefect_slots.system.processes import Users
from prefect_slots.usage import foreign, overuse

_log = logging.getLogger("prefect_slots")


@dataclass(frozen=True, kw_only=True)
class SeatsSeen:
    """A license server's answer about one feature.

    Attributes:
        resource: The resource that tasks ask for.
        feature: The answer; `None` if there is none, and `why` has the reason.
        asked_at: Time of the question, a Unix time.
        reserved: Seats that the server sets aside for this machine or this process's user.
        reserved_for_all: Those of them that serve any user of this machine.
    """

    resource: str
    table: declaration.LicenseServer
    feature: report.Feature | None
    why: str
    asked_at: float
    reserved: int = 0
    reserved_for_all: int = 0


def ask_servers(
    servers: tuple[declaration.LicenseServer, ...], env: Mapping[str, str], desk: client.Desk
) -> tuple[SeatsSeen, ...]:
    """Ask the license servers, in the time of the slowest of them: its time limit at most."""
    here = client.query_here()
    asked = client.questions(servers)
    readings = desk.ask_all(tuple(asked), env)
    # Readings carry the monotonic clock, rows Unix times.
    lag = time.time() - time.monotonic()
    return tuple(
        _told(table, license_resource(name), feature, reading, lag, here)
        for tables, reading in zip(asked.values(), readings, strict=True)
        for table in tables
        for name, feature in table.features
    )


def _told(
    table: declaration.LicenseServer, resource: str, name: str, reading: report.Reading, lag: float, here: Here
) -> SeatsSeen:
    feature = reading.find(name) if reading.failure is None else None
    why = reading.failure or ("" if feature is not None else f"{table.server} tells of no '{name}'")
    if feature is not None and isinstance(feature.usage, report.Unknown):
        feature, why = None, feature.usage.reason
    asked_at = (time.monotonic() if reading.asked_at is None else reading.asked_at) + lag
    options = client.query_options(table.options_file)
    ours, for_all = (
        0 if feature is None else reservations.claim(feature, table, each, options).ours
        for each in (here, replace(here, users=frozenset()))
    )
    return SeatsSeen(
        resource=resource,
        table=table,
        feature=feature,
        why=finding.printable(why),
        asked_at=asked_at,
        reserved=ours,
        reserved_for_all=for_all,
    )


def note_seats(
    told: tuple[SeatsSeen, ...], tx: Transaction, fleet: foreign.Fleet, users: Users, stale_after: int
) -> overuse.Noted:
    """Record foreign use of each license, and let the scheduler decide on the seats that are left.

    A license is stale after `stale_after` questions without an answer.
    """
    known = usage.read_outside(tx)
    registered = registry.registered(tx)
    counted_here = registry.counted(tx)
    stale: list[finding.Stale] = []
    changed = False
    for seats in told:
        cell = next(iter(registered.cells(seats.resource)), None)
        if cell is None:
            continue  # never registered: there is no number that could be too large
        floats = registered.scopes[seats.resource] is Scope.FLEET
        counted = counted_here.get(cell.id, 0)
        if floats:
            counted = fleet.counted.get(seats.resource, counted)
        before = known.get(cell.id) or usage.Outside(cell=cell.id)
        if seats.asked_at < before.asked_at <= tx.now:
            continue  # another process has asked since
        after = _after(tx, before, seats, users, fleet.hosts if floats else None, counted, cell.capacity)
        if after.misses == stale_after and after.misses > before.misses:
            stale.append(foreign.stale_of(after, registered.machine))
        usage.write_outside(tx, after)
        blocked = min(cell.capacity, after.used or 0)
        changed |= registry.block(tx, cell.id, blocked)
        if floats:
            # While nobody outside uses a seat, the server alone judges the other machines' seats, at each claim.
            changed |= registry.note_counted(tx, cell.id, counted if blocked else 0)
    if changed:
        registry.note_change(tx)
        tx.apply(book.Changed())
    return overuse.Noted(stale=tuple(stale))


def _after(
    tx: Transaction,
    before: usage.Outside,
    seats: SeatsSeen,
    users: Users,
    hosts: frozenset[str] | None,
    counted: int,
    capacity: int,
) -> usage.Outside:
    # An answer that is kept for several looks counts once.
    new = seats.asked_at > before.asked_at
    if seats.feature is None:
        misses = before.misses + 1 if new else before.misses
        return replace(before, asked_at=max(before.asked_at, seats.asked_at), misses=misses, why=seats.why)
    answered = replace(before, seen_at=seats.asked_at, asked_at=seats.asked_at, misses=0, why="")
    in_use = seats.feature.usage
    # A server that does not count a license does not limit it either.
    if not isinstance(in_use, report.Counted):
        return replace(answered, used=0)
    grace = seats.table.grace_seconds
    samples = foreign.remembered(before.counted, tx.now, counted, grace + tx.now - seats.asked_at)
    holds = tuple(holds_of(tx, seats.resource, users, tx.now - seats.asked_at + grace))
    use = outside.outside_use(
        in_use,
        seats.feature.checkouts,
        holds,
        # The seats of one user fail under another who shares the ledger.
        reserved=seats.reserved_for_all if is_shared(tx.folder) else seats.reserved,
        asked_at=seats.asked_at,
        now=tx.now,
        grace=grace,
    )
    if use.unseen and new:
        _log.debug("%s: %d seats are held here and not shown by its server", seats.resource, use.unseen)
    explained = foreign.settled(samples, seats.asked_at - grace)
    # Seats that are shown on hosts outside the fleet are people's, and no slot explains them.
    if hosts is not None and seats.feature.checkouts is not None:
        explained = min(explained, sum(each.count for each in seats.feature.checkouts if each.is_on(hosts)))
    # Seats that the server has no more, such as those of a license that ended, are free for nobody until a registration
    # says so.
    gone = max(0, capacity + seats.table.headroom - in_use.total)
    # A garbled answer may count more than a database can hold.
    used = min(amount.MAX_AMOUNT, foreign.beyond(use.others, explained) + gone)
    return replace(answered, used=used, counted=samples)


def holds_of(tx: Transaction, resource: str, users: Users, lately: float = 0) -> Iterator[outside.Hold]:
    """Yield the seats that tasks of this ledger hold, and those that they gave back lately."""
    host = socket.gethostname()
    for part in queries.holdings(tx, resource):
        # A draw takes no further seat.
        if part.source is None:
            user = users.name(part.grant, part.pid or 0)
            yield outside.Hold(user=user, host=host, count=part.declared, since=part.since, ended=None)
    for span in queries.history(tx, resource, tx.now - lately):
        user = users.name(span.grant, span.pid)
        yield outside.Hold(user=user, host=host, count=span.amount, since=span.granted_at, ended=span.ended_at)

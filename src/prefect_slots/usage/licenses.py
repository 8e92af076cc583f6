"""One look at the licence servers, written into the ledger: seats that people outside use are not free.

Ours are told apart by user, host and number of seats, with some time for our tasks to take them and for the server to
show it. Users' names are looked up, compared and forgotten; nothing of them is logged or written.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from prefect_slots.detect.licenses.client import Desk, questions
from prefect_slots.detect.licenses.outside import Hold, outside_use
from prefect_slots.detect.licenses.report import Counted, Feature, Reading, Unknown
from prefect_slots.ledger import registry, usage
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.ledger.usage import Outside
from prefect_slots.model.amount import MAX_AMOUNT
from prefect_slots.model.book import CellId, Changed
from prefect_slots.model.declaration import LicenseServer
from prefect_slots.model.finding import Stale, printable
from prefect_slots.model.resource import Scope, license_resource
from prefect_slots.usage.foreign import Fleet, beyond, remembered, settled
from prefect_slots.usage.users import Users

_log = logging.getLogger("prefect_slots")


@dataclass(frozen=True, kw_only=True)
class SeatsSeen:
    """What a licence server told of one feature.

    Attributes:
        resource: What tasks ask for.
        feature: `None` where the server told nothing of it, and `why` says so.
        asked_at: When the server was asked, a Unix time.
    """

    resource: str
    table: LicenseServer
    feature: Feature | None
    why: str
    asked_at: float


def ask_servers(servers: tuple[LicenseServer, ...], env: Mapping[str, str], desk: Desk) -> tuple[SeatsSeen, ...]:
    """Ask the licence servers; takes as long as the slowest of them, its time limit at most."""
    asked = questions(servers)
    readings = desk.ask_all(tuple(asked), env)
    lag = time.time() - time.monotonic()
    return tuple(
        _told(table, license_resource(name), feature, reading, lag)
        for tables, reading in zip(asked.values(), readings, strict=True)
        for table in tables
        for name, feature in table.features
    )


def _told(table: LicenseServer, resource: str, name: str, reading: Reading, lag: float) -> SeatsSeen:
    feature = reading.find(name) if reading.failure is None else None
    why = reading.failure or ("" if feature is not None else f"{table.server} tells of no '{name}'")
    if feature is not None and isinstance(feature.usage, Unknown):
        feature, why = None, feature.usage.reason
    asked_at = (time.monotonic() if reading.asked_at is None else reading.asked_at) + lag
    return SeatsSeen(resource=resource, table=table, feature=feature, why=printable(why), asked_at=asked_at)


def note_seats(
    told: tuple[SeatsSeen, ...], tx: Transaction, fleet: Fleet, users: Users, stale_after: int
) -> list[Stale]:
    """Write down what people outside use of each licence, and let the scheduler decide on what is left.

    Returns:
        Licences of which nobody has told for `stale_after` tries, told once.
    """
    known = usage.read(tx)
    stale: list[Stale] = []
    changed = False
    for seats in told:
        row = tx.one(
            "SELECT number, capacity, foreign_use, scope FROM cell JOIN resource ON name=resource "
            "WHERE resource=? AND present",
            seats.resource,
        )
        if row is None:
            continue  # never registered: there is no number that could be too large
        cell, capacity = CellId(seats.resource, row[0]), row[1]
        floats = Scope(row[3]) is Scope.FLEET
        counted = fleet.counted.get(seats.resource, row[2]) if floats else row[2]
        before = known.get(cell) or Outside(cell=cell)
        if seats.asked_at < before.asked_at <= tx.now:
            continue  # another process has asked since
        after = _after(tx, before, seats, users, fleet.hosts if floats else None, counted)
        if after.misses == stale_after and after.misses > before.misses:
            machine = tx.meta("machine") or ""
            stale.append(
                Stale(
                    machine=machine,
                    resource=seats.resource,
                    seen_at=after.seen_at,
                    misses=after.misses,
                    why=after.why,
                )
            )
        usage.write(tx, after)
        blocked = min(capacity, after.used or 0)
        changed |= usage.block(tx, cell, blocked)
        if floats:
            # As long as nobody outside uses a seat the server alone judges, at each try, what other machines leave.
            changed |= _count(tx, cell, counted if blocked else 0)
    if changed:
        registry.note_change(tx)
        tx.apply(Changed())
    return stale


def _count(tx: Transaction, cell: CellId, counted: int) -> bool:
    return bool(
        tx.run(
            "UPDATE cell SET foreign_use=? WHERE resource=? AND number=? AND foreign_use<>?", counted, *cell, counted
        )
    )


def _after(
    tx: Transaction,
    before: Outside,
    seats: SeatsSeen,
    users: Users,
    hosts: frozenset[str] | None,
    counted: int,
) -> Outside:
    new = seats.asked_at > before.asked_at
    if seats.feature is None:
        misses = before.misses + 1 if new else before.misses
        return replace(before, asked_at=max(before.asked_at, seats.asked_at), misses=misses, why=seats.why)
    usage = seats.feature.usage
    if not isinstance(usage, Counted):
        return replace(before, used=0, seen_at=seats.asked_at, asked_at=seats.asked_at, misses=0, why="")
    grace = seats.table.grace_seconds
    samples = remembered(before.counted, tx.now, counted, grace + tx.now - seats.asked_at)
    holds = tuple(_holds(tx, seats.resource, users, tx.now - seats.asked_at + grace))
    use = outside_use(usage, seats.feature.checkouts, holds, asked_at=seats.asked_at, now=tx.now, grace=grace)
    if use.unseen and new:
        _log.debug("%s: %d seats are held here and not shown by its server", seats.resource, use.unseen)
    explained = settled(samples, seats.asked_at - grace)
    if hosts is not None and seats.feature.checkouts is not None:
        explained = min(explained, sum(each.count for each in seats.feature.checkouts if each.is_on(hosts)))
    return replace(
        before,
        # A garbled answer may count more than a database can hold.
        used=min(MAX_AMOUNT, beyond(use.others, explained)),
        seen_at=seats.asked_at,
        asked_at=seats.asked_at,
        counted=samples,
        misses=0,
        why="",
    )


def _holds(tx: Transaction, resource: str, users: Users, lately: float) -> Iterator[Hold]:
    """Yield the seats that tasks of this ledger hold, and those that they gave back lately."""
    host = socket.gethostname()
    held = tx.all(
        "SELECT h.id, COALESCE(o.pid, 0), c.amount, h.granted_at, NULL FROM holding c JOIN held h ON h.id=c.held "
        "LEFT JOIN owner o ON o.id=h.owner WHERE c.resource=? AND h.source IS NULL",
        resource,
    )
    ended = tx.all(
        "SELECT held, pid, amount, granted_at, ended_at FROM history WHERE resource=? AND ended_at>?",
        *(resource, tx.now - lately),
    )
    for grant, pid, count, since, end in (*held, *ended):
        yield Hold(user=users.name(grant, pid), host=host, count=count, since=since, ended=end)

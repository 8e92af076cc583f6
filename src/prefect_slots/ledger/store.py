"""Transactions on the ledger: load the view, apply an event, write what the decision says, wake whom it grants.

Whoever changes anything runs the scheduler inside its own transaction; there is no daemon. No HTTP and no user code
runs inside a transaction. The scheduler comes in as a function.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from prefect_slots.errors import LedgerUnreadable
from prefect_slots.ledger import schema
from prefect_slots.ledger.owner import Owner, is_dead
from prefect_slots.ledger.wakeup import wake
from prefect_slots.model.book import (
    Book,
    CellId,
    CellState,
    Change,
    Changed,
    Closed,
    Counted,
    Decision,
    Dequeued,
    Ended,
    Event,
    Freed,
    Grant,
    Granted,
    Holding,
    Left,
    Line,
    Nesting,
    Queued,
    Refused,
    Reserved,
    Shape,
    SteppedAside,
    Ticket,
)
from prefect_slots.model.requirement import Requirement

T = TypeVar("T")
FRONT: Final = 4
HISTORY: Final = 10_000


class Decide(Protocol):
    """The scheduler, with its settings bound."""

    def __call__(self, book: Book, event: Event, now: float) -> Decision:
        """Return what to write."""
        ...


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Who asks: written beside the ticket, shown by `status`."""

    owner: str
    label: str


class Ledger:
    """One connection of one thread to a machine's ledger."""

    def __init__(self, folder: Path, decide: Decide, actor: str = "") -> None:
        """Open the ledger in `folder`, a path that `folder.open_folder` returned, on behalf of the owner `actor`.

        Raises:
            LedgerUnreadable: if it is corrupt, of another version or locked.
        """
        self.folder = folder
        self.path = folder / schema.FILE
        self.actor = actor
        self._decide = decide
        self._connection = schema.connect(folder)
        status = self.path.stat()
        self._file = (status.st_dev, status.st_ino)
        self.id: str = self.read(lambda tx: tx.meta("ledger_id") or "")

    def close(self) -> None:
        """Close the connection; nothing is written."""
        self._connection.close()

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in one write transaction, commit, then wake the owners of what it granted.

        Raises:
            LedgerUnreadable: if the file is corrupt, deleted or locked for too long. Nothing is written then.
        """
        with self._begun("BEGIN IMMEDIATE") as transaction:
            result = work(transaction)
        wake(transaction.wakes)
        return result

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` on one consistent state; it must not write."""
        with self._begun("BEGIN") as transaction:
            return work(transaction)

    @contextmanager
    def _begun(self, begin: str) -> Generator[Transaction]:
        try:
            self._connection.execute(begin)
            try:
                if begin != "BEGIN":
                    self._refuse_deleted_file()
                yield Transaction(self._connection, self.folder, self._decide, self.actor)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise schema.unreadable(self.path, error) from error

    def _refuse_deleted_file(self) -> None:
        # A deleted folder made anew would be a second ledger for the same cards.
        try:
            status = self.path.stat()
        except FileNotFoundError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._file:
            raise LedgerUnreadable(
                path=str(self.path),
                reason="it was deleted or replaced while this process used it; end every process that uses it, "
                "then run `prefect-slots register`",
            )


class Transaction:
    """What may be done inside one transaction.

    Attributes:
        connection: For the tables of `registry` and `leases`.
        actor: The owner on whose behalf it runs; leases of what it frees become its to release.
        wakes: `(address, ticket)` of what was granted or refused to other owners.
        settled: Tickets of the actor's own that were granted or refused.
    """

    def __init__(self, connection: sqlite3.Connection, folder: Path, decide: Decide, actor: str) -> None:
        self.connection = connection
        self.actor = actor
        self.wakes: list[tuple[str, str]] = []
        self.settled: list[str] = []
        self._folder = folder
        self._decide = decide

    def all(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return all rows."""
        with closing(self.connection.execute(sql, values)) as cursor:
            return cursor.fetchall()

    def one(self, sql: str, *values: object) -> tuple[Any, ...] | None:
        """Return the first row, if any."""
        with closing(self.connection.execute(sql, values)) as cursor:
            return cursor.fetchone()

    def run(self, sql: str, *values: object) -> int:
        """Execute one writing statement; return how many rows it touched."""
        with closing(self.connection.execute(sql, values)) as cursor:
            return cursor.rowcount

    def meta(self, key: str) -> str | None:
        """Return a value of the `meta` table."""
        row = self.one("SELECT value FROM meta WHERE key=?", key)
        return row[0] if row else None

    def set_meta(self, key: str, value: str) -> None:
        """Set a value of the `meta` table."""
        self.run("INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value=excluded.value", key, value)

    # Owners

    def enrol(self, owner: Owner, address: str) -> None:
        """Write an owner whose lock is held already."""
        self.run(
            "INSERT INTO owner VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(owner.id, owner.pid, owner.started, owner.boot, owner.lock_file, address, owner.program),
        )

    def dead_owners(self, but: str) -> list[str]:
        """Return the owners proven dead, other than `but`."""
        rows = self.all("SELECT id, lock_file, pid, started, boot FROM owner WHERE id<>?", but)
        return [row[0] for row in rows if is_dead(self._folder, row[1], row[2], row[3], row[4])]

    def drop_owner(self, owner: str) -> None:
        """Forget an owner: its tickets leave, its grants end, and its leases become the actor's.

        Where draws of others go on, the grant stays closed and its leases pass to one of those.
        """
        for (ticket,) in self.all("SELECT id FROM ticket WHERE owner=?", owner):
            self.apply(Left(ticket=ticket))
        for (grant,) in self.all("SELECT id FROM held WHERE owner=? ORDER BY seq DESC", owner):
            self.apply(Ended(grant=grant))
        self.run("DELETE FROM refusal WHERE owner=?", owner)
        self.run(
            "UPDATE lease SET owner=COALESCE((SELECT d.owner FROM held d WHERE d.source=lease.held AND d.owner<>?), ?) "
            "WHERE owner=? AND state<>'releasing'",
            *(owner, self.actor, owner),
        )
        self.run("UPDATE lease SET owner=? WHERE owner=?", self.actor, owner)
        self.run("DELETE FROM owner WHERE id=?", owner)

    # The book

    def next_seq(self) -> int:
        """Give out the next arrival number."""
        seq = int(self.meta("seq") or 0) + 1
        self.set_meta("seq", str(seq))
        return seq

    def apply(self, event: Event, asker: Asker | None = None) -> None:
        """Decide on `event` and write the changes; `asker` goes with `Asked`.

        A grant to an owner that turns out to be dead is ended at once, and the scheduler decides again.
        """
        granted: list[str] = []
        again = True
        while again:
            decision = self._decide(self.book(), event, time.time())
            for change in decision.changes:
                self._write(change, asker)
                if isinstance(change, Granted):
                    granted.append(change.grant.id)
            event, again = Changed(), decision.again
        for grant in granted:
            self._announce(grant)

    def _announce(self, grant: str) -> None:
        row = self.one(
            "SELECT o.id, o.lock_file, o.pid, o.started, o.boot, o.wake FROM held h JOIN owner o ON o.id=h.owner "
            "WHERE h.id=?",
            grant,
        )
        if row is None:
            return
        owner, *proof, address = row
        if owner == self.actor:
            self.settled.append(grant)
        elif is_dead(self._folder, *proof):
            self.apply(Ended(grant=grant))
        else:
            self.wakes.append((address, grant))

    def book(self, front: int = FRONT) -> Book:
        """Return the cells, the grants and the front of each line: every reserver and the first `front` others."""
        return Book(cells=self._cells(), grants=self._grants(), lines=self._lines(front))

    def _cells(self) -> tuple[CellState, ...]:
        rows = self.all("SELECT resource, number, capacity, foreign_use FROM cell WHERE present ORDER BY 1, 2")
        return tuple(CellState(id=CellId(r, n), capacity=c, foreign=f) for r, n, c, f in rows)

    def _grants(self) -> tuple[Grant, ...]:
        holdings: dict[str, list[Holding]] = {}
        for held, resource, number, amount in self.all("SELECT held, resource, number, amount FROM holding"):
            holdings.setdefault(held, []).append(Holding(CellId(resource, number), amount))
        rows = self.all(
            "SELECT id, requirement, priority, parent, root, source, seq, overtaken, closed FROM held ORDER BY seq"
        )
        return tuple(
            Grant(
                id=row[0],
                shape=_shape(row[1], row[2], row[0], row[3], row[4], row[5]),
                holdings=tuple(sorted(holdings.get(row[0], ()))),
                seq=row[6],
                overtaken=row[7],
                closed=bool(row[8]),
            )
            for row in rows
        )

    def _lines(self, front: int) -> tuple[Line, ...]:
        lines: list[Line] = []
        for row in self.all(
            "SELECT key, requirement, priority, overtakes, parent, root, source FROM shape ORDER BY key"
        ):
            select = "SELECT id, seq, base, reserved FROM ticket WHERE shape=? AND blocked_on IS NULL AND reserved IS "
            waiting = self.all(f"{select} NULL ORDER BY seq LIMIT ?", row[0], front + 1)
            tickets = [_ticket(*values) for values in (*self.all(f"{select} NOT NULL", row[0]), *waiting[:front])]
            if tickets:
                tickets.sort(key=lambda ticket: ticket.seq)
                shape = _shape(row[1], row[2], tickets[0].id, row[4], row[5], row[6])
                truncated = len(waiting) > front
                lines.append(Line(shape=shape, overtakes=row[3], tickets=tuple(tickets), truncated=truncated))
        return tuple(lines)

    # Changes

    def _write(self, change: Change, asker: Asker | None) -> None:
        match change:
            case Queued(shape=shape, ticket=ticket):
                self._queue(shape, ticket, asker)
            case Granted(grant=grant, at=at):
                self._hold(grant, at)
            case Dequeued(ticket=ticket):
                self._dequeue(ticket)
            case Refused(ticket=ticket):
                self._refuse(ticket)
            case Closed(grant=grant):
                self.run("UPDATE held SET closed=1 WHERE id=?", grant)
            case Freed(grant=grant):
                self._free(grant)
            case SteppedAside(grant=grant, blocked_on=limit):
                self._step_aside(grant, limit)
            case Counted(shape=shape, overtakes=overtakes):
                self.run("UPDATE shape SET overtakes=? WHERE key=?", overtakes, shape.key)
            case Reserved(ticket=ticket, cells=cells):
                self.run("UPDATE ticket SET reserved=? WHERE id=?", _dump(cells) if cells else None, ticket)

    def _queue(self, shape: Shape, ticket: Ticket, asker: Asker | None) -> None:
        self._shape_row(shape)
        resumed = self.run(
            "UPDATE ticket SET blocked_on=NULL, base=?, reserved=NULL WHERE id=?", ticket.base, ticket.id
        )
        if not resumed:
            if asker is None:
                raise ValueError(f"ticket {ticket.id} is new, and nobody is named who asks")
            self.run(
                "INSERT INTO ticket VALUES (?, ?, ?, ?, NULL, ?, ?, ?, NULL, 0)",
                *(ticket.id, ticket.seq, shape.key, ticket.base),
                *(asker.owner, asker.label, time.time()),
            )

    def _shape_row(self, shape: Shape) -> None:
        nesting = shape.nesting
        self.run(
            "INSERT INTO shape VALUES (?, ?, ?, 0, ?, ?, ?) ON CONFLICT DO NOTHING",
            *(shape.key, json.dumps(shape.requirement.to_data()), shape.priority),
            *((nesting.parent, nesting.root, nesting.source) if nesting else (None, None, None)),
        )

    def _dequeue(self, ticket: str) -> tuple[Any, ...] | None:
        row = self.one("SELECT shape, owner, label, asked_at FROM ticket WHERE id=?", ticket)
        if row is not None:
            self.run("DELETE FROM ticket WHERE id=?", ticket)
            self.run("DELETE FROM shape WHERE key=? AND NOT EXISTS (SELECT 1 FROM ticket WHERE shape=key)", row[0])
        return row

    def _hold(self, grant: Grant, at: float) -> None:
        row = self._dequeue(grant.id)
        if row is None:
            raise LookupError(f"granted ticket {grant.id} is not in the ledger")
        _, owner, label, asked_at = row
        nesting = grant.shape.nesting
        self.run(
            "INSERT INTO held VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, 0, ?, ?, ?)",
            *(grant.id, grant.seq, json.dumps(grant.shape.requirement.to_data()), grant.shape.priority),
            *((nesting.parent, nesting.root, nesting.source) if nesting else (None, None, None)),
            *(grant.overtaken, owner, label, asked_at, at),
        )
        for cell, amount in grant.holdings:
            self.run("INSERT INTO holding VALUES (?, ?, ?, ?)", grant.id, cell.resource, cell.number, amount)

    def _refuse(self, ticket: str) -> None:
        parent = self.one("SELECT s.parent FROM ticket t JOIN shape s ON s.key=t.shape WHERE t.id=?", ticket)
        row = self._dequeue(ticket)
        if row is not None and parent is not None:
            self.run("INSERT INTO refusal VALUES (?, ?, ?)", ticket, parent[0], row[1])
            address = self.one("SELECT wake FROM owner WHERE id=?", row[1])
            if row[1] == self.actor:
                self.settled.append(ticket)
            elif address is not None:
                self.wakes.append((address[0], ticket))

    def _free(self, grant: str) -> None:
        # What is taken from the machine is recorded for the timeline; a draw shows in its source's row.
        self.run(
            "INSERT INTO history (held, label, pid, resource, number, amount, asked_at, granted_at, ended_at) "
            "SELECT h.id, h.label, COALESCE(o.pid, 0), c.resource, c.number, c.amount, h.asked_at, h.granted_at, ? "
            "FROM held h JOIN holding c ON c.held=h.id LEFT JOIN owner o ON o.id=h.owner "
            "WHERE h.id=? AND h.source IS NULL",
            *(time.time(), grant),
        )
        self.run("DELETE FROM history WHERE id <= (SELECT MAX(id) FROM history) - ?", HISTORY)
        self._delete_held(grant)

    def _delete_held(self, grant: str) -> None:
        # One releaser per lease: whoever frees the cells owns the rows from here on.
        self.run("UPDATE lease SET state='releasing', owner=? WHERE held=?", self.actor, grant)
        self.run("DELETE FROM held WHERE id=?", grant)

    def _step_aside(self, grant: Grant, limit: str) -> None:
        row = self.one("SELECT owner, label, asked_at FROM held WHERE id=?", grant.id)
        if row is None:
            raise LookupError(f"grant {grant.id} is not in the ledger")
        self._delete_held(grant.id)
        self._shape_row(grant.shape)
        self.run(
            "INSERT INTO ticket VALUES (?, ?, ?, 0, NULL, ?, ?, ?, ?, ?)",
            *(grant.id, grant.seq, grant.shape.key, *row, limit, grant.overtaken),
        )


def _shape(
    requirement: str, priority: int, ticket: str, parent: str | None, root: str | None, source: str | None
) -> Shape:
    nesting = Nesting(ticket=ticket, parent=parent, root=root, source=source) if parent and root else None
    return Shape(requirement=Requirement.from_data(json.loads(requirement)), priority=priority, nesting=nesting)


def _ticket(ticket: str, seq: int, base: int, reserved: str | None) -> Ticket:
    cells = tuple(Holding(CellId(r, n), a) for r, n, a in json.loads(reserved)) if reserved else ()
    return Ticket(id=ticket, seq=seq, base=base, reserved=cells)


def _dump(cells: tuple[Holding, ...]) -> str:
    return json.dumps([[cell.resource, cell.number, amount] for cell, amount in cells])

"""What may be done inside one transaction: enrol and reap owners, apply events, ask where a ticket stands.

Every event runs the scheduler here and its changes are written before the next statement.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from uuid import UUID

from prefect_slots.ledger import book, leases
from prefect_slots.ledger.owner import Owner, is_dead
from prefect_slots.ledger.sql import Tables
from prefect_slots.model import book as model
from prefect_slots.model.request import Request
from prefect_slots.model.requirement import Requirement
from prefect_slots.system import clock


class Decide(Protocol):
    """The scheduler, with its settings bound."""

    def __call__(self, book: model.Book, event: model.Event, now: float) -> model.Decision:
        """Return what to write."""
        ...


Plan = Callable[["Transaction", model.Grant], Iterable[leases.Call]]
"""The calls that a grant needs on the server, in canonical order."""


class TicketState(StrEnum):
    """Where a ticket stands."""

    WAITING = "waiting"
    BLOCKED = "blocked"  # the server refused; it waits aside until it is resumed
    HELD = "held"
    REFUSED = "refused"  # the grant it wanted to draw on has ended
    GONE = "gone"


class Transaction(Tables):
    """What may be done inside one transaction."""

    def __init__(
        self, connection: sqlite3.Connection, folder: Path, decide: Decide, actor: str, plan: Plan | None
    ) -> None:
        super().__init__(connection, actor, releases=plan is not None)
        self._folder = folder
        self._decide = decide
        self._plan = plan
        self._offered: set[str] = set()

    # Owners

    def enrol(self, owner: Owner, address: str) -> None:
        """Write an owner whose lock is held already; the first one after a boot starts the clock anew."""
        if self.meta("boot") != owner.boot:
            self._start_clock_anew()
            self.set_meta("boot", owner.boot)
        self.run(
            "INSERT INTO owner (id, pid, started, boot, lock_file, wake, program) VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(owner.id, owner.pid, owner.started, owner.boot, owner.lock_file, address, owner.program),
        )

    def _start_clock_anew(self) -> None:
        # Times of the boot clock that were written before lie in a future that may be weeks away.
        now = clock.boot_clock()
        self.run("DELETE FROM role")
        self.run("DELETE FROM rest")
        self.run("UPDATE held SET ends=NULL")
        self.run("UPDATE lease SET sent_at=?, answered=NULL", now)
        self.run("UPDATE lease SET deadline=? WHERE deadline IS NOT NULL", now + leases.LEASE_SECONDS)

    def enrol_at_server(self) -> None:
        """Note that the actor can reach the server: leases may be left to it."""
        self.run("UPDATE owner SET releases=1 WHERE id=?", self.actor)

    def dead_owners(self) -> list[str]:
        """Return the other owners that are proven dead and have left something that the actor can clear up."""
        rows = self.all(
            "SELECT id, lock_file, pid, started, boot FROM owner o WHERE id<>? AND (? OR NOT EXISTS "
            "(SELECT 1 FROM lease WHERE owner=o.id) OR EXISTS (SELECT 1 FROM ticket WHERE owner=o.id) "
            "OR EXISTS (SELECT 1 FROM held WHERE owner=o.id AND NOT closed))",
            *(self.actor, self.releases),
        )
        return [row[0] for row in rows if is_dead(self._folder, row[1], row[2], row[3], row[4])]

    def drop_owner(self, owner: str) -> bool:
        """Forget an owner: its tickets leave, its grants end, and its leases become the actor's.

        Where draws of others go on, the grant stays closed and its leases pass to one of those. An actor that cannot
        reach the server leaves leases, and the owner's row, to one that can.

        Returns:
            Whether nothing of the owner is left.
        """
        waiting = self.all("SELECT id FROM ticket WHERE owner=?", owner)
        for (ticket,) in waiting:
            book.write(self, model.Dequeued(ticket=ticket), None)
        if waiting:
            self.apply(model.Changed())
        for (grant,) in self.all("SELECT id FROM held WHERE owner=? AND NOT closed ORDER BY seq DESC", owner):
            self.apply(model.Ended(grant=grant))
        self.run("DELETE FROM refusal WHERE owner=?", owner)
        for (grant,) in self.all("SELECT DISTINCT held FROM lease WHERE owner=?", owner):
            heir = self._heir(grant, owner)
            if heir is not None:
                self.run("UPDATE lease SET owner=? WHERE held=? AND owner=?", heir, grant, owner)
        self.run("DELETE FROM lease WHERE owner=? AND state='repair' AND weight=0", owner)
        self.run("UPDATE lease SET owner='' WHERE owner=? AND state='repair'", owner)
        if self.releases:
            self.run("UPDATE lease SET owner=?, state='releasing' WHERE owner=?", self.actor, owner)
        if self.one("SELECT 1 FROM lease WHERE owner=?", owner) is not None:
            return False
        self.run("DELETE FROM owner WHERE id=?", owner)
        return True

    def _heir(self, grant: str, gone: str) -> str | None:
        """Return another owner that draws on `grant`, directly or through draws of the one that has gone."""
        row = self.one(
            "WITH RECURSIVE drawn (id, owner) AS (SELECT id, owner FROM held WHERE source=? "
            "UNION ALL SELECT h.id, h.owner FROM held h JOIN drawn d ON h.source=d.id) "
            "SELECT owner FROM drawn WHERE owner<>?",
            *(grant, gone),
        )
        return row[0] if row else None

    # The book

    def next_seq(self) -> int:
        """Give out the next arrival number."""
        seq = int(self.meta("seq") or 0) + 1
        self.set_meta("seq", str(seq))
        return seq

    def apply(self, event: model.Event, request: Request | None = None) -> None:
        """Decide on `event` and write the changes; `request` goes with `Asked`, and its owner is the actor."""
        if isinstance(event, model.Asked) and event.ticket.run:
            event = replace(event, tails=book.tails(self, event.ticket.run, event.shape.priority))
        granted: list[str] = []
        again = True
        while again:
            decision = self._decide(self.book(), event, self.moment)
            for change in decision.changes:
                book.write(self, change, request)
                if isinstance(change, model.Granted):
                    granted.append(change.grant.id)
            event, again = model.Changed(), decision.again
        self._hand_over(granted)
        for grant in granted:
            self._announce(grant)

    def _hand_over(self, granted: Iterable[str]) -> None:
        if self._plan is None or not self.spare:
            return
        now = clock.boot_clock()
        for ticket in granted:
            grant = self.grant(ticket)
            if grant.shape.pool is None:
                leases.hand_over(self, ticket, self._plan(self, grant), now)
        # Whoever the server refused waits aside and is not seen by the scheduler: what came free may be what it wants.
        for holder in [holder for holder in self.spare if holder not in self._offered]:
            self._offered.add(holder)
            row = leases.get(self, UUID(holder))
            if row is not None and row.call.fleet:
                waiting = self.blocked_on(row.names[0])
                if waiting:
                    self.resume(waiting[0])

    def blocked_on(self, limit: str) -> list[str]:
        """Return the tickets that wait aside because the server refused that limit, in the order of the queue."""
        rows = self.all(
            "SELECT t.id FROM ticket t JOIN shape s ON s.key=t.shape WHERE t.blocked_on=? "
            "ORDER BY s.priority DESC, t.turn, t.seq",
            limit,
        )
        return [row[0] for row in rows]

    def blocked_limits(self) -> list[str]:
        """Return the limits on which tickets wait aside."""
        return [row[0] for row in self.all("SELECT DISTINCT blocked_on FROM ticket WHERE blocked_on IS NOT NULL")]

    def blocked_limit(self, ticket: str) -> str | None:
        """Return the limit on which a ticket waits aside, if it does."""
        row = self.one("SELECT blocked_on FROM ticket WHERE id=?", ticket)
        return row[0] if row else None

    def _announce(self, grant: str) -> None:
        row = self.one("SELECT o.id, o.wake FROM held h JOIN owner o ON o.id=h.owner WHERE h.id=?", grant)
        if row is not None and row[0] == self.actor:
            self.settled.append(grant)
        elif row is not None:
            self.wakes.append((row[1], grant))

    def is_left_behind(self, grant: str) -> bool:
        """Tell whether the owner of a grant is proven dead."""
        row = self.one(
            "SELECT o.lock_file, o.pid, o.started, o.boot FROM held h JOIN owner o ON o.id=h.owner WHERE h.id=?", grant
        )
        return row is not None and is_dead(self._folder, *row)

    def resume(self, ticket: str) -> None:
        """Put a ticket that had stepped aside back into its line, at its old place."""
        row = self.one(
            "SELECT s.requirement, s.priority, s.expected, s.parent, s.root, s.source, "
            "t.seq, t.overtaken, t.turn, t.run FROM ticket t JOIN shape s ON s.key=t.shape "
            "WHERE t.id=? AND t.blocked_on IS NOT NULL",
            ticket,
        )
        if row is not None:
            shape = book.shape_of(ticket, *row[:6])
            old = model.Ticket(id=ticket, seq=row[6], turn=row[8], run=row[9])
            self.apply(model.Resumed(shape=shape, ticket=old, overtaken=row[7]))

    def requirement(self, ticket: str) -> Requirement:
        """Return what a waiting ticket asks for.

        Raises:
            LookupError: if it does not wait.
        """
        row = self.one("SELECT s.requirement FROM ticket t JOIN shape s ON s.key=t.shape WHERE t.id=?", ticket)
        if row is None:
            raise LookupError(f"ticket {ticket} does not wait")
        return Requirement.from_data(json.loads(row[0]))

    def state(self, ticket: str) -> TicketState:
        """Say where a ticket stands."""
        if self.one("SELECT 1 FROM held WHERE id=?", ticket):
            return TicketState.HELD
        row = self.one("SELECT blocked_on FROM ticket WHERE id=?", ticket)
        if row is not None:
            return TicketState.WAITING if row[0] is None else TicketState.BLOCKED
        refused = self.one("SELECT 1 FROM refusal WHERE ticket=?", ticket)
        return TicketState.REFUSED if refused else TicketState.GONE

    def leave(self, ticket: str) -> None:
        """End a ticket or grant, whatever state it is in; one that is gone already is left so."""
        state = self.state(ticket)
        if state is TicketState.HELD:
            self.apply(model.Ended(grant=ticket))
        elif state in (TicketState.WAITING, TicketState.BLOCKED):
            self.apply(model.Left(ticket=ticket))
        else:
            self.run("DELETE FROM refusal WHERE ticket=?", ticket)

    def book(self) -> model.Book:
        """Return the cells, the grants and the front of each line."""
        return book.read_book(self)

    def grant(self, grant: str) -> model.Grant:
        """Return one grant.

        Raises:
            LookupError: if it is gone.
        """
        return book.read_grant(self, grant)

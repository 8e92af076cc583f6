"""The operations of one transaction: enrolment and reaping of owners, events, states of tickets.

Each event runs the scheduler, and its changes are written before the next statement.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from uuid import UUID

from prefect_slots.ledger import book, leases, sql
from prefect_slots.ledger.owner import PROOF, Owner, is_dead
from prefect_slots.model import Request, Requirement
from prefect_slots.model import book as model
from prefect_slots.system import clock

Decide = Callable[[model.Book, model.Event, float], model.Decision]
"""The scheduler, with its settings bound: it decides on a book, an event and the present moment."""

Plan = Callable[["Transaction", model.Grant], Iterable[leases.Call]]
"""The calls that a grant needs on the server, in canonical order."""


class TicketState(StrEnum):
    """State of a ticket."""

    WAITING = "waiting"
    BLOCKED = "blocked"  # the server refused its grant; it waits aside until it is resumed
    HELD = "held"
    REFUSED = "refused"  # the grant that it asked to draw on has ended
    GONE = "gone"


class Transaction(sql.Tables):
    """One transaction on the ledger, reading or writing."""

    def __init__(
        self, connection: sqlite3.Connection, folder: Path, decide: Decide, actor: str, plan: Plan | None
    ) -> None:
        super().__init__(connection, actor, releases=plan is not None)
        self.folder = folder
        self._decide = decide
        self._plan = plan
        self._offered: set[str] = set()

    # Owners

    def enrol(self, owner: Owner, address: str) -> None:
        """Write an owner that holds its lock already; the first one after a boot resets all times of the boot clock."""
        if self.meta("boot") != owner.boot:
            self._start_clock_anew()
            self.set_meta("boot", owner.boot)
        self.run(
            "INSERT INTO owner (id, pid, started, boot, namespace, lock_file, wake, program) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(owner.id, owner.pid, owner.started, owner.boot, owner.namespace, owner.lock_file, address, owner.program),
        )

    def _start_clock_anew(self) -> None:
        # The boot clock starts at zero: times of the last boot may lie weeks in the future.
        now = clock.boot_clock()
        self.run("DELETE FROM role")
        self.run("DELETE FROM rest")
        self.run("UPDATE held SET ends=NULL")
        self.run("UPDATE lease SET sent_at=?, answered=NULL", now)
        self.run("UPDATE lease SET deadline=? WHERE deadline IS NOT NULL", now + leases.LEASE_SECONDS)

    def enrol_at_server(self) -> None:
        """Record that the actor can reach the server: it may become the releaser of leases."""
        self.run("UPDATE owner SET releases=1 WHERE id=?", self.actor)

    def dead_owners(self) -> list[str]:
        """Return the other owners that are proven dead and have left anything that the actor can clear up."""
        rows = self.all(
            f"SELECT id, {PROOF} FROM owner o WHERE id<>? AND (? OR NOT EXISTS "
            "(SELECT 1 FROM lease WHERE owner=o.id) OR EXISTS (SELECT 1 FROM ticket WHERE owner=o.id) "
            "OR EXISTS (SELECT 1 FROM held WHERE owner=o.id AND NOT closed))",
            *(self.actor, self.releases),
        )
        return [row[0] for row in rows if is_dead(self.folder, *row[1:])]

    def drop_owner(self, owner: str) -> bool:
        """Forget an owner: its tickets leave, its grants end, and its leases become the actor's.

        Where draws by other owners go on, the grant stays closed and one of those owners inherits its leases. An actor
        that cannot reach the server leaves the leases, and the owner's row, to one that can.

        Returns:
            True if nothing of the owner is left.
        """
        # Tickets first: a grant that ends must not be given to a ticket of the same dead process.
        waiting = self.column("SELECT id FROM ticket WHERE owner=?", owner)
        for ticket in waiting:
            book.write(self, model.Dequeued(ticket=ticket), None)
        if waiting:
            self.apply(model.Changed())
        # The latest first: a draw ends before the grant that it draws on, which can then be freed.
        for grant in self.column("SELECT id FROM held WHERE owner=? AND NOT closed ORDER BY seq DESC", owner):
            self.apply(model.Ended(grant=grant))
        self.run("DELETE FROM refusal WHERE owner=?", owner)
        # Otherwise a first request would wait in vain for the look that a process took on and left at its end.
        self.run("DELETE FROM role WHERE owner=?", owner)
        for grant in self.column("SELECT DISTINCT held FROM lease WHERE owner=?", owner):
            heir = self._heir(grant, owner)
            if heir is not None:
                self.run("UPDATE lease SET owner=? WHERE held=? AND owner=?", heir, grant, owner)
        # A latch of weight 0 has sent nothing. Another one may have: its row stays until that call has settled.
        self.run("DELETE FROM lease WHERE owner=? AND state='repair' AND weight=0", owner)
        self.run("UPDATE lease SET owner='' WHERE owner=? AND state='repair'", owner)
        if self.releases:
            self.run("UPDATE lease SET owner=?, state='releasing' WHERE owner=?", self.actor, owner)
        if self.one("SELECT 1 FROM lease WHERE owner=?", owner) is not None:
            return False
        self.run("DELETE FROM owner WHERE id=?", owner)
        return True

    def _heir(self, grant: str, gone: str) -> str | None:
        """Return another owner that draws on `grant`, directly or through draws of the dead one."""
        return self.value(
            "WITH RECURSIVE drawn (id, owner) AS (SELECT id, owner FROM held WHERE source=? "
            "UNION ALL SELECT h.id, h.owner FROM held h JOIN drawn d ON h.source=d.id) "
            "SELECT owner FROM drawn WHERE owner<>?",
            *(grant, gone),
        )

    # The book

    def next_seq(self) -> int:
        """Return the next arrival number."""
        seq = int(self.meta("seq") or 0) + 1
        self.set_meta("seq", str(seq))
        return seq

    def apply(self, event: model.Event, request: Request | None = None) -> None:
        """Decide on `event` and write the changes; `request` goes with `Asked`, and its owner is the actor."""
        if isinstance(event, model.Asked) and event.ticket.run:
            event = replace(event, tails=book.tails(self, event.ticket.run, event.shape.priority))
        granted: list[str] = []
        # A view shows the front of each line; when one is used up the book is read and decided on once more.
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
            # A draw occupies nothing on the server: the leases of its source cover it.
            if grant.shape.pool is None:
                leases.hand_over(self, ticket, self._plan(self, grant), now)
        # A ticket that the server refused waits aside, unseen by the scheduler: it may want just this spare lease.
        for holder in [holder for holder in self.spare if holder not in self._offered]:
            self._offered.add(holder)
            row = leases.get(self, UUID(holder))
            if row is not None and row.call.fleet:
                waiting = self.blocked_on(row.names[0])
                if waiting:
                    self.resume(waiting[0])

    def blocked_on(self, limit: str) -> list[str]:
        """Return the tickets that wait aside because the server refused `limit`, in the order of the queue."""
        return self.column(
            "SELECT t.id FROM ticket t JOIN shape s ON s.key=t.shape WHERE t.blocked_on=? "
            "ORDER BY s.priority DESC, t.turn, t.seq",
            limit,
        )

    def waits(self) -> bool:
        """Return whether any ticket waits."""
        return self.one("SELECT 1 FROM ticket") is not None

    def blocked_limits(self) -> list[str]:
        """Return the limits on which tickets wait aside."""
        return self.column("SELECT DISTINCT blocked_on FROM ticket WHERE blocked_on IS NOT NULL")

    def blocked_limit(self, ticket: str) -> str | None:
        """Return the limit on which a ticket waits aside, if it does."""
        return self.value("SELECT blocked_on FROM ticket WHERE id=?", ticket)

    def _announce(self, grant: str) -> None:
        row = self.one("SELECT o.id, o.wake FROM held h JOIN owner o ON o.id=h.owner WHERE h.id=?", grant)
        if row is not None and row[0] == self.actor:
            self.settled.append(grant)
        elif row is not None:
            self.wakes.append((row[1], grant))

    def is_left_behind(self, grant: str) -> bool:
        """Return whether the owner of a grant is proven dead."""
        row = self.one(f"SELECT {PROOF} FROM held h JOIN owner o ON o.id=h.owner WHERE h.id=?", grant)
        return row is not None and is_dead(self.folder, *row)

    def resume(self, ticket: str) -> None:
        """Put a ticket that stepped aside back into its line, at its old place."""
        row = self.one(
            f"SELECT {book.SHAPE}, t.seq, t.overtaken, t.turn, t.run FROM ticket t JOIN shape s ON s.key=t.shape "
            "WHERE t.id=? AND t.blocked_on IS NOT NULL",
            ticket,
        )
        if row is not None:
            shape = book.shape_of(ticket, *row[:6])
            old = model.Ticket(id=ticket, seq=row[6], turn=row[8], run=row[9])
            self.apply(model.Resumed(shape=shape, ticket=old, overtaken=row[7]))

    def requirement(self, ticket: str) -> Requirement:
        """Return the requirement of a waiting ticket.

        Raises:
            LookupError: if it does not wait.
        """
        data = self.value("SELECT s.requirement FROM ticket t JOIN shape s ON s.key=t.shape WHERE t.id=?", ticket)
        if data is None:
            raise LookupError(f"ticket {ticket} does not wait")
        return Requirement.from_data(json.loads(data))

    def state(self, ticket: str) -> TicketState:
        """Return the state of a ticket."""
        if self.one("SELECT 1 FROM held WHERE id=?", ticket):
            return TicketState.HELD
        row = self.one("SELECT blocked_on FROM ticket WHERE id=?", ticket)
        if row is not None:
            return TicketState.WAITING if row[0] is None else TicketState.BLOCKED
        refused = self.one("SELECT 1 FROM refusal WHERE ticket=?", ticket)
        return TicketState.REFUSED if refused else TicketState.GONE

    def leave(self, ticket: str) -> None:
        """End a ticket or grant in any state; a gone one is left alone."""
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

"""The ledger's file, opened by one thread: transactions that commit, then wake the owners of new grants.

There is no daemon: each process runs the scheduler, which is passed in as a function, inside its own transaction. No
HTTP and no user code runs there.
"""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from weakref import WeakSet

from prefect_slots.errors import LedgerUnreadable
from prefect_slots.ledger import failpoints, schema, wakeup
from prefect_slots.ledger.transaction import Decide, Plan, Transaction
from prefect_slots.model import Ended

T = TypeVar("T")
# SQLite's lock has no queue: with hundreds of processes on few cores one may be passed over for many seconds, and a
# writer that makes progress is no reason to give up.
_LONGEST_TURN_SECONDS = 60.0


class Ledger:
    """One connection of one thread to a machine's ledger.

    Attributes:
        on_settled: Called after the commit with the actor's own tickets that were granted or refused.
        plan: Returns the calls that a grant needs on the server, once the actor can reach it. Without it, leases stay
            with their owners.
    """

    def __init__(self, folder: Path, decide: Decide, actor: str = "") -> None:
        """Open the ledger in `folder`, a path that `folder.open_folder` returned, on behalf of the owner `actor`.

        Raises:
            LedgerUnreadable: if it is corrupt, of another version or locked.
        """
        self.folder = folder
        self.path = folder / schema.FILE
        self.actor = actor
        self.on_settled: Callable[[list[str]], None] = lambda _: None
        self.plan: Plan | None = None
        self._decide = decide
        self._lock = threading.RLock()
        with _fork_guard:
            self._connection: sqlite3.Connection | None = schema.connect(folder)
            _open.add(self)
        status = self.path.stat()
        self._file = (status.st_dev, status.st_ino)
        self.id: str = self.read(lambda tx: tx.meta("ledger_id") or "")

    def close(self) -> None:
        """Close the connection; nothing is written."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def transact(self, work: Callable[[Transaction], T], *, frees: bool = False) -> T:
        """Run `work` in one write transaction, commit, then wake the owners of new grants.

        Args:
            work: Called with the transaction; called again from the start if the ballast had to make room.
            frees: It gives something back, and must succeed on a full disk too.

        Raises:
            LedgerUnreadable: if the file is corrupt, deleted or locked for too long, or the disk is full. Nothing is
                written then.
        """
        try:
            return self._transact(work)
        except LedgerUnreadable as error:
            if not (frees and schema.is_full(error.__cause__) and schema.drop_ballast(self.folder)):
                raise
            return self._transact(work)

    def _transact(self, work: Callable[[Transaction], T]) -> T:
        def write(transaction: Transaction) -> tuple[T, Transaction]:
            result = work(transaction)
            failpoints.reached(failpoints.Point.IN_TRANSACTION)
            return result, transaction

        # The write lock is taken at the begin: a read that turns into a write could fail in the middle.
        result, done = self._run(write, "BEGIN IMMEDIATE", "COMMIT")
        failpoints.reached(failpoints.Point.COMMITTED)
        # After the commit: a waiter that woke earlier would read the old state and sleep on.
        self._pass_over_the_dead(wakeup.wake(done.wakes))
        if done.settled:
            self.on_settled(done.settled)
        return result

    def _pass_over_the_dead(self, tickets: list[str]) -> None:
        for ticket in tickets:
            # The transaction itself has been committed; waiting processes find the dead too, only later.
            with contextlib.suppress(LedgerUnreadable):
                if self.read(lambda tx, grant=ticket: tx.is_left_behind(grant)):
                    self._transact(lambda tx, grant=ticket: tx.apply(Ended(grant=grant)))

    def rehearse(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` as `transact` would, and roll back: nothing is written and no owner is woken."""
        return self._run(work, "BEGIN IMMEDIATE", "ROLLBACK")

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` on one consistent state; it must not write."""
        return self._run(work, "BEGIN", "COMMIT")

    def _run(self, work: Callable[[Transaction], T], begin: str, end: str) -> T:
        with self._lock:
            if self._connection is None:
                self._refuse_deleted_file()
                self._connection = schema.connect(self.folder)
            connection = self._connection
            try:
                try:
                    _take_turn(connection, begin)
                    self._refuse_deleted_file()
                    result = work(Transaction(connection, self.folder, self._decide, self.actor, self.plan))
                    connection.execute(end)
                    return result
                except BaseException:
                    if connection.in_transaction:  # after some errors SQLite has ended it already
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.DatabaseError as error:
                raise schema.unreadable(self.path, error) from error

    def _refuse_deleted_file(self) -> None:
        # A folder that was deleted and created again would be a second ledger of the same GPUs.
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

    # A connection must not cross a fork. SQLite would take the child's copy for its own: locks seem held that are not,
    # so that another process may remove the log under the child, or stay held for ever.

    def before_fork(self) -> None:
        """Wait for the transaction that is open, and close the connection; the next transaction opens it again."""
        self._lock.acquire()
        self.close()

    def after_fork(self) -> None:
        """Allow transactions again."""
        self._lock.release()


def _take_turn(connection: sqlite3.Connection, begin: str) -> None:
    """Begin a transaction, waiting as long as other processes commit; a stopped writer ends the wait."""
    seen = None
    until = time.monotonic() + _LONGEST_TURN_SECONDS
    while True:
        try:
            connection.execute(begin)
        except sqlite3.OperationalError as error:
            version = connection.execute("PRAGMA data_version").fetchone()
            if not schema.is_locked(error) or version == seen or time.monotonic() > until:
                raise
            seen = version
        else:
            return


_open: WeakSet[Ledger] = WeakSet()
_forking: list[Ledger] = []
_fork_guard = threading.RLock()  # one thread forks at a time, and none while a ledger is being opened


def _before_fork() -> None:
    _fork_guard.acquire()
    _forking[:] = list(_open)
    for ledger in _forking:
        ledger.before_fork()


def _after_fork() -> None:
    while _forking:
        _forking.pop().after_fork()
    _fork_guard.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)

"""The ledger's tables, and the safe opening of their file.

One SQLite file in WAL mode with synchronous off: a killed process is rolled back, and after a power loss every grant is
void anyway. A corrupt file, or one of another version, is refused and never repaired by guessing.
"""

import contextlib
import os
import sqlite3
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

from prefect_slots.errors import LedgerUnreadable
from prefect_slots.ledger.folder import share
from prefect_slots.system.processes import query_locker

FILE = "ledger.sqlite3"
CREATION_LOCK = "creation.lock"
BALLAST = "ballast"
# Deleted when the disk is full, so that grants can still be released; a megabyte takes many such transactions.
BALLAST_BYTES = 2**20
# Raised with each change of a table: an older package must not write into a newer file.
VERSION = 9
# A transaction takes about a millisecond, so that a lock held this long means a stopped process.
BUSY_SECONDS = 5.0
# The byte of SQLite's shared-memory file that a writer has locked (https://sqlite.org/walformat.html).
_WRITE_LOCK = 120

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE resource (
    name TEXT PRIMARY KEY, unit TEXT NOT NULL, scope TEXT NOT NULL, origin TEXT NOT NULL
) WITHOUT ROWID;

-- A number is given once per key and never reused, so that a limit's name always means the same GPU.
-- foreign_use: foreign use by the server's count. outside: foreign use beyond that, as devices and license servers
-- show it. Neither is free. display: the part of `outside` that leaves a whole GPU to a request. users: the programs
-- that use it, for people. exclusive: the first holder takes all of it. lost: it is broken; its limit stays, and
-- nothing more is granted on it.
CREATE TABLE cell (
    resource TEXT NOT NULL, number INTEGER NOT NULL, key TEXT NOT NULL, label TEXT NOT NULL,
    compute_capability TEXT NOT NULL, position INTEGER, capacity INTEGER NOT NULL,
    foreign_use INTEGER NOT NULL DEFAULT 0, outside INTEGER NOT NULL DEFAULT 0,
    present INTEGER NOT NULL DEFAULT 1, exclusive INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0,
    display INTEGER NOT NULL DEFAULT 0, users TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (resource, number), UNIQUE (resource, key)
) WITHOUT ROWID;

-- Foreign use of a cell, as its device or license server shows it; see `ledger.usage`. Times are Unix times.
CREATE TABLE outside (
    resource TEXT NOT NULL, number INTEGER NOT NULL, used INTEGER, seen_at REAL, asked_at REAL NOT NULL,
    peak TEXT NOT NULL, counted TEXT NOT NULL, misses INTEGER NOT NULL, why TEXT NOT NULL,
    PRIMARY KEY (resource, number)
) WITHOUT ROWID;

-- Memory use of a grant on a cell, beside its declared amount; see `ledger.usage`.
CREATE TABLE spent (
    held TEXT NOT NULL, resource TEXT NOT NULL, number INTEGER NOT NULL, label TEXT NOT NULL, declared INTEGER NOT NULL,
    peak INTEGER NOT NULL, looks INTEGER NOT NULL, together INTEGER NOT NULL, over INTEGER NOT NULL,
    warned INTEGER NOT NULL, signals INTEGER NOT NULL, PRIMARY KEY (held, resource, number)
) WITHOUT ROWID;

-- namespace: the pid namespace of `pid`, `command` and `serving.pid`: in another one these are other processes.
-- command: the one process that the owner runs under its grants, with its start.
CREATE TABLE owner (
    id TEXT PRIMARY KEY, pid INTEGER NOT NULL, started REAL NOT NULL, boot TEXT NOT NULL, namespace TEXT NOT NULL,
    lock_file TEXT NOT NULL, wake TEXT NOT NULL, program TEXT NOT NULL, releases INTEGER NOT NULL DEFAULT 0,
    command INTEGER, command_started REAL
) WITHOUT ROWID;

-- expected: seconds until its end, by the asker's word.
CREATE TABLE shape (
    key TEXT PRIMARY KEY, requirement TEXT NOT NULL, priority INTEGER NOT NULL, expected REAL,
    overtakes INTEGER NOT NULL, parent TEXT, root TEXT, source TEXT
) WITHOUT ROWID;

-- for_children: task processes of its owner use what it is granted, and the owner itself does not.
CREATE TABLE ticket (
    id TEXT PRIMARY KEY, seq INTEGER NOT NULL UNIQUE, turn INTEGER NOT NULL, run TEXT NOT NULL, shape TEXT NOT NULL,
    base INTEGER NOT NULL, reserved TEXT,
    owner TEXT NOT NULL, label TEXT NOT NULL, asked_at REAL NOT NULL, blocked_on TEXT, overtaken INTEGER NOT NULL,
    refusals INTEGER NOT NULL DEFAULT 0, for_children INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX ticket_by_shape ON ticket (shape, turn, seq) WHERE blocked_on IS NULL AND reserved IS NULL;
CREATE INDEX ticket_reserving ON ticket (shape, seq) WHERE blocked_on IS NULL AND reserved IS NOT NULL;
CREATE INDEX ticket_by_run ON ticket (run, shape, turn) WHERE blocked_on IS NULL;
CREATE INDEX ticket_by_owner ON ticket (owner);

-- A grant keeps its ticket's id. unbacked: the server does not count all of it, and a lease is to be taken again. lost:
-- a limit on which it was exposed. refusals: times that the server has sent it back. ends: its end by its holder's word
-- (boot clock).
CREATE TABLE held (
    id TEXT PRIMARY KEY, seq INTEGER NOT NULL, requirement TEXT NOT NULL, priority INTEGER NOT NULL, expected REAL,
    parent TEXT, root TEXT, source TEXT, turn INTEGER NOT NULL, run TEXT NOT NULL, chosen INTEGER NOT NULL,
    overtaken INTEGER NOT NULL, ends REAL, closed INTEGER NOT NULL DEFAULT 0,
    owner TEXT NOT NULL, label TEXT NOT NULL, asked_at REAL NOT NULL, granted_at REAL NOT NULL,
    unbacked INTEGER NOT NULL DEFAULT 0, lost TEXT, refusals INTEGER NOT NULL DEFAULT 0,
    for_children INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX held_by_owner ON held (owner);
CREATE TABLE holding (
    held TEXT NOT NULL REFERENCES held (id) ON DELETE CASCADE, resource TEXT NOT NULL, number INTEGER NOT NULL,
    amount INTEGER NOT NULL, PRIMARY KEY (held, resource, number)
) WITHOUT ROWID;

-- The grant that each task process of an owner serves now; the first one of a grant is its own, others run tasks that
-- it has submitted.
CREATE TABLE serving (
    held TEXT NOT NULL REFERENCES held (id) ON DELETE CASCADE,
    owner TEXT NOT NULL REFERENCES owner (id) ON DELETE CASCADE, pid INTEGER NOT NULL, started REAL NOT NULL,
    UNIQUE (owner, pid)
);

-- A draw whose parent ended while it waited; its owner reads this when woken.
CREATE TABLE refusal (ticket TEXT PRIMARY KEY, parent TEXT NOT NULL, owner TEXT NOT NULL) WITHOUT ROWID;

-- answered: when the server was first heard after a call whose own answer was lost.
-- Calls to the server; id is our holder id, the states are those of LeaseState. A row follows its grant to a new owner.
CREATE TABLE lease (
    id TEXT PRIMARY KEY, held TEXT NOT NULL, owner TEXT NOT NULL, lease_id TEXT, names TEXT NOT NULL,
    weight INTEGER NOT NULL, fleet INTEGER NOT NULL, state TEXT NOT NULL, sent_at REAL NOT NULL, deadline REAL,
    handovers INTEGER NOT NULL DEFAULT 0, answered REAL
) WITHOUT ROWID;
CREATE INDEX lease_by_held ON lease (held);
CREATE INDEX lease_by_owner ON lease (owner);

-- Limits of the fleet that this machine leaves to others until then (boot clock).
CREATE TABLE rest (limit_name TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;

-- Elected roles; beat is the last heartbeat (boot clock).
CREATE TABLE role (name TEXT PRIMARY KEY, owner TEXT NOT NULL, beat REAL NOT NULL) WITHOUT ROWID;

CREATE TABLE history (
    id INTEGER PRIMARY KEY, held TEXT NOT NULL, label TEXT NOT NULL, pid INTEGER NOT NULL, namespace TEXT NOT NULL,
    resource TEXT NOT NULL, number INTEGER NOT NULL, amount INTEGER NOT NULL, asked_at REAL NOT NULL,
    granted_at REAL NOT NULL, ended_at REAL NOT NULL
);
"""


def connect(folder: Path) -> sqlite3.Connection:
    """Open the ledger in `folder`, making it if it is new. Transactions are explicit.

    Raises:
        LedgerUnreadable: if the file is corrupt, of another version, or locked for over `BUSY_SECONDS`.
    """
    path = folder / FILE
    try:
        with contextlib.ExitStack() as undo:
            # Half of it at a time: between the halves it shows whether other processes commit.
            connection = sqlite3.connect(path, timeout=BUSY_SECONDS / 2, isolation_level=None, check_same_thread=False)
            undo.callback(connection.close)
            if _version(connection) == 0:
                _make_tables(connection, path)
            # No fsync: it would cost milliseconds for each grant, and grants do not outlive a power loss anyway.
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("PRAGMA foreign_keys=ON")
            _refuse_other_version(connection, path)
            _lay_in_ballast(folder)
            undo.pop_all()
            return connection
    except sqlite3.DatabaseError as error:
        raise unreadable(path, error) from error


def _version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]


def _make_tables(connection: sqlite3.Connection, path: Path) -> None:
    # Two processes that switch a new file to WAL at once fail with "locked" without waiting: one creates it at a time.
    lock = FileLock(path.with_name(CREATION_LOCK), timeout=BUSY_SECONDS, fallback_to_soft=False, mode=0o660)
    try:
        with lock:
            share(path)  # before SQLite makes the companions of the file, which take after it
            connection.execute("PRAGMA journal_mode=WAL")
            if _version(connection) == 0:
                meta = f"('ledger_id', '{uuid.uuid4().hex[:12]}'), ('seq', '0')"
                connection.executescript(
                    f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version={VERSION}; INSERT INTO meta VALUES {meta}; COMMIT"
                )
    except Timeout:
        reason = f"another process has been making it for {BUSY_SECONDS:g} s; look for a stopped process that uses it"
        raise LedgerUnreadable(path=str(path), reason=reason) from None


def _refuse_other_version(connection: sqlite3.Connection, path: Path) -> None:
    version = _version(connection)
    if version != VERSION:
        raise LedgerUnreadable(
            path=str(path),
            reason=f"it has version {version}, this prefect-slots reads version {VERSION}. Let every process that "
            "uses it end, update prefect-slots everywhere on this machine, and move the file away",
        )


def _lay_in_ballast(folder: Path) -> None:
    ballast = folder / BALLAST
    if not ballast.exists():
        with contextlib.suppress(OSError):
            ballast.write_bytes(os.urandom(BALLAST_BYTES))  # zeros take no room on some file systems
            share(ballast)


def drop_ballast(folder: Path) -> bool:
    """Make room on a full disk; return whether that was still possible."""
    try:
        (folder / BALLAST).unlink()
    except OSError:
        return False
    return True


def is_full(error: BaseException | None) -> bool:
    """Return whether SQLite failed because the disk, or this user's quota, is full."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.Error) and code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)


def is_locked(error: BaseException) -> bool:
    """Return whether SQLite failed because another process was writing."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def unreadable(path: Path, error: sqlite3.DatabaseError) -> LedgerUnreadable:
    """Return the error for a person: SQLite's finding and a remedy."""
    if is_full(error):
        reason = "the disk is full, so nothing can be granted. Make room on it"
    elif is_locked(error):
        who = query_locker(path.with_name(f"{path.name}-shm"), _WRITE_LOCK) or "another process"
        stopped = "If it is stopped, continue or kill it; if not, try again"
        reason = f"{who} has kept it locked for {BUSY_SECONDS:g} s. {stopped}"
    else:
        remedy = "Let every process that uses it end, move the file away, and run `prefect-slots register` again"
        reason = f"it cannot be read as a ledger ({error}). {remedy}"
    return LedgerUnreadable(path=str(path), reason=reason)

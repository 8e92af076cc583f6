"""The client of license servers: one query of a server at a time, a cache of its answer, back-off after failures.

An error is part of the answer, never an exception: a server that cannot be asked leaves its features unknown.
"""

import hashlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from itertools import chain
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from prefect_slots.detect.detector import Answer, Scene
from prefect_slots.detect.licenses.here import Here, identities, names_user
from prefect_slots.detect.licenses.report import Reading
from prefect_slots.detect.licenses.reservations import Options, parse_options
from prefect_slots.detect.licenses.seats import interpret_seats
from prefect_slots.detect.licenses.vendors import VENDORS, fill
from prefect_slots.model import LicenseServer, license_resource
from prefect_slots.system.commands import decode, run_command
from prefect_slots.system.processes import user_name
from prefect_slots.system.threads import call_in_thread


@contextmanager
def in_turn(folder: Path | None, server: str, seconds: float) -> Generator[bool]:
    """Keep the user's other processes from asking a server meanwhile; yield true if it may be asked.

    It may not if others have asked it for all those seconds. They are being kept waiting by it, as each gives it up
    after its own limit: another query would only add to its load, and the last known answer stands.

    Args:
        folder: Where the locks are; `None` for no lock at all.
        server: The vendor and the server's name.
        seconds: How long to wait.
    """
    with ExitStack() as turn:
        is_mine = True
        if folder is not None:
            try:
                turn.enter_context(_lock(folder, server).acquire(seconds))
            except Timeout:
                is_mine = False
            except (OSError, NotImplementedError):
                # Without locks, one query more at a time is a smaller harm than unknown seats.
                pass
        yield is_mine


def _own(folder: Path) -> Path:
    """Return the folder, made if need be.

    Raises:
        PermissionError: if it is another user's.
    """
    for made in (folder.parent, folder):
        made.mkdir(mode=0o700, exist_ok=True)
        # Where everybody may write, anybody may have made it: a lock in theirs would be theirs to keep.
        status = made.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise PermissionError(f"{made} is somebody else's")
    return folder


def _lock(folder: Path, server: str) -> FileLock:
    # A lock by the mere existence of a file would outlive a killed process.
    return FileLock(_own(folder) / f"{_key(server)}.lock", fallback_to_soft=False)


def _key(server: str) -> str:
    # A hash, because a server's name may be longer than a file's, or hold a slash.
    return hashlib.sha256(server.encode()).hexdigest()[:32]


# Seconds at most between two tries of a failing server: a repaired one is noticed within a quarter of an hour.
MAX_BACK_OFF = 900.0


@dataclass(frozen=True, kw_only=True)
class Question:
    """One query: a server, and the features that are wanted of it.

    Attributes:
        poll_seconds: How long the answer stays true enough.
        timeout: Seconds after which the server is given up.
        checkouts: Keep the holders of seats.
    """

    vendor: str
    server: str
    command: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    poll_seconds: float = 60
    timeout: float = 10
    checkouts: bool = False


def questions(servers: Sequence[LicenseServer]) -> dict[Question, tuple[LicenseServer, ...]]:
    """Return one question per server, with the tables that it answers: several may name features of one server."""
    # Host names are the same in any case of letters; a command of its own may ask another server.
    groups: dict[tuple[str, str, tuple[str, ...]], list[LicenseServer]] = {}
    for server in servers:
        groups.setdefault((server.vendor, server.server.casefold(), server.command), []).append(server)
    asked: dict[Question, tuple[LicenseServer, ...]] = {}
    for (vendor, _, command), group in groups.items():
        question = Question(
            vendor=vendor,
            server=group[0].server,
            command=command,
            features=tuple(sorted({feature for table in group for _, feature in table.features})),
            poll_seconds=min(table.poll_seconds for table in group),
            timeout=max(table.timeout for table in group),
            # The count of outside use asks the same question, so that the server is asked once for both.
            checkouts=True,
        )
        asked[question] = tuple(group)
    return asked


def query_server(question: Question, env: Mapping[str, str]) -> Reading:
    """Ask a server once and read its answer."""
    vendor = VENDORS[question.vendor]
    server = question.server
    argv = [*(question.command or (vendor.program,)), *vendor.arguments(server, question.features)]
    env = {**env, **{name: fill(text, server) for name, text in vendor.env.items()}}
    output = run_command(argv, env=env, timeout=question.timeout, stdin=fill(vendor.input, server))
    try:
        reading = vendor.parse(output.text, server=server, checkouts=question.checkouts)
    except Exception as error:
        # Garbage that no reader foresaw must not end the look at the other servers.
        return Reading(failure=f"its output cannot be read ({type(error).__name__}): please report it")
    if vendor.lists_ended:
        reading = reading.on(date.today())
    if output.failure is not None:
        # An output that was cut may lack the very lines that matter.
        return replace(reading, features=(), failure=output.failure)
    if reading.failure is None and not reading.features:
        how = f", and '{argv[0]}' ended with exit status {output.code}" if output.code else ""
        return replace(reading, failure=f"it told of no feature{how}")
    return reading


@dataclass
class _Counter:
    """The state of one question: the last answer, the back-off, and the lock of its server."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    reading: Reading | None = None
    locks: dict[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    next_try: float = 0.0
    failures: int = 0


class Desk:
    """Where servers are asked: all queries of a process go through one of these.

    Attributes:
        folder: Where the locks are that keep a user's other processes from asking the same server meanwhile, or `None`.
    """

    def __init__(
        self,
        query: Callable[[Question, Mapping[str, str]], Reading] = query_server,
        clock: Callable[[], float] = time.monotonic,
        folder: Path | None = None,
    ) -> None:
        self.folder = folder
        self._query = query
        self._clock = clock
        self._counters: dict[Question, _Counter] = {}
        self._turns: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def ask(self, question: Question, env: Mapping[str, str]) -> Reading:
        """Return the answer of the last `poll_seconds`, else ask; after failures, ever more rarely."""
        with self._lock:
            turn = self._turns.setdefault((question.vendor, question.server.casefold()), threading.Lock())
            counter = self._counters.setdefault(question, _Counter(turn=turn))
        with counter.turn:
            now = self._clock()
            asked = f"{question.vendor} {question.server.casefold()}"
            if counter.reading is not None and now < counter.next_try:
                return _kept(counter.reading, counter.next_try - now)
            with in_turn(self.folder, asked, question.timeout) as is_mine:
                asked_at = self._clock()
                told = self._query(question, env) if is_mine else Reading(failure=_taken(question.timeout))
            # Some servers name the locks only while a license is used, and the scope would change with it.
            locks = remembered_locks(self.folder, asked, told) if self.folder is not None else counter.locks
            counter.reading = replace(_with_locks(told, locks), asked_at=asked_at)
            counter.failures = 0 if counter.reading.failure is None else counter.failures + 1
            # The exponent is bounded: a server that is away for weeks would exceed the largest float.
            pause = question.poll_seconds * 2 ** min(max(0, counter.failures - 1), 10)
            counter.next_try = self._clock() + max(question.poll_seconds, min(pause, MAX_BACK_OFF))
            return counter.reading

    def ask_all(self, asked: Sequence[Question], env: Mapping[str, str]) -> tuple[Reading, ...]:
        """Ask several servers at the same time, so that the slowest one is all there is to wait for."""
        # In threads that the end of the process does not wait for: a server may hang for minutes.
        sent = [
            call_in_thread(partial(self.ask, question, env), f"licence server {question.server}") for question in asked
        ]
        return tuple(answer.result() for answer in sent)


def _taken(seconds: float) -> str:
    return f"other processes of this user have been asking it for {seconds:g} s; if one of them is stopped, continue it"


def _with_locks(reading: Reading, locks: dict[str, tuple[str, ...]]) -> Reading:
    locks.update({feature.name: feature.locks for feature in reading.features if feature.locks is not None})
    features = tuple(replace(feature, locks=locks.get(feature.name)) for feature in reading.features)
    return replace(reading, features=features)


def remembered_locks(folder: Path, server: str, told: Reading) -> dict[str, tuple[str, ...]]:
    """Return the locks that a server last told, in any process of this user, of features of which it tells none now."""
    locks: dict[str, tuple[str, ...]] = {}
    with suppress(OSError, ValueError, AttributeError, TypeError):
        file = _own(folder) / f"{_key(server)}.locks"
        locks = {str(name): tuple(map(str, each)) for name, each in json.loads(file.read_text()).items()}
    news = {each.name: tuple(map(_nameless, each.locks)) for each in told.features if each.locks is not None}
    if news.items() - locks.items():
        with suppress(OSError):
            # Never half a file: another process may read it at this moment.
            half = _own(folder) / f"{_key(server)}.{os.getpid()}"
            half.write_text(json.dumps({**locks, **news}))
            half.replace(half.with_suffix(".locks"))
    return {**locks, **news}


def _nameless(lock: str) -> str:
    """Return a lock as it may be written down: without the name of another user."""
    here = Here(users=frozenset({user_name(os.getuid()).casefold()}))
    return lock if here.is_user_of(lock) or not names_user(lock) else "USER="


def _kept(reading: Reading, seconds: float) -> Reading:
    if reading.failure is None:
        return reading
    return replace(reading, failure=f"{reading.failure}; it is asked again in {seconds:.0f} s")


# One per process: two desks would each ask a server, and count its failures apart.
# Its folder is the same for all processes of a user, in any environment, so that they ask in turn.
DESK = Desk(folder=Path(f"/var/tmp/prefect-slots-{os.getuid()}/licences"))


@dataclass(frozen=True)
class LicenseDetector:
    """Detector of the seats that the configured servers count; takes as long as the slowest of them."""

    servers: Sequence[LicenseServer]
    desk: Desk

    @property
    def names(self) -> list[str]:
        """The resources of the configured features, in the order of the configuration."""
        return [license_resource(name) for table in self.servers for name, _ in table.features]

    @property
    def resources(self) -> frozenset[str]:
        """The resources of the configured features."""
        return frozenset(self.names)

    def detect(self, scene: Scene) -> Answer:
        """Ask every server and return the seats."""
        asked = questions(self.servers)
        readings = self.desk.ask_all(tuple(asked), scene.env)
        told = [(table, reading) for tables, reading in zip(asked.values(), readings, strict=True) for table in tables]
        options = {table.options_file: query_options(table.options_file) for table in self.servers}
        return interpret_seats(told, query_here(), date.today(), options)


def query_here() -> Here:
    """Return the names and addresses by which a license server knows this machine, and this process's user."""
    # Not the full name: asking for it waits for a name server that may be away.
    names = (socket.gethostname(),)
    try:
        interfaces = list(chain.from_iterable(psutil.net_if_addrs().values()))
    except OSError:
        # Some sandboxes forbid it: locks and reservations by address are others' then.
        interfaces = []
    addresses = (each.address for each in interfaces if each.family in (psutil.AF_LINK, socket.AF_INET))
    return identities(names, addresses, (user_name(os.getuid()),))


def query_options(file: str) -> Options:
    """Read a server's options file, `""` for none. Never raises: a failure is part of the answer."""
    try:
        return parse_options(decode(Path(file).read_bytes())) if file else Options()
    except OSError as error:
        return Options(failure=error.strerror or str(error))

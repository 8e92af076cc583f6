"""Errors of requests, registrations and the ledger: one type per circumstance.

Fields come first and the message is made from them, so that a program can act on an error and a person can read
it. Errors survive pickling (they cross process pools and Prefect results). This file knows nothing else of the package.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from signal import Signals
from typing import Any, dataclass_transform


def _rebuild(kind: type[SlotsError], state: dict[str, Any]) -> SlotsError:
    # Not through `__init__`: the state may hold more than fields, such as notes added to the error.
    error = kind.__new__(kind)
    error.__dict__.update(state)
    return error


@dataclass_transform()
class SlotsError(Exception):
    """Base of all errors that prefect-slots raises; each subclass is a dataclass of its fields."""

    def __init_subclass__(cls) -> None:
        # With `eq` they would be unhashable, unlike Python's own errors.
        dataclass(eq=False, repr=False)(cls)

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException pickles positional args only; ours are fields given by keyword.
        return _rebuild, (type(self), dict(self.__dict__))

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({listed})"


def nearest(name: str, known: tuple[str, ...]) -> str:
    """Return the known names close to a mistyped one, in words; all of them if none is close."""
    if not known:
        return "nothing is registered here"
    # Below a likeness of one half, suggestions look like jokes.
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(known))}"


class InvalidRequirement(SlotsError, ValueError):
    """A request that no machine could understand: a wrong word, amount or combination."""

    key: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"requires({self.key}={self.value}): {self.reason}"


class UnknownResource(SlotsError, LookupError):
    """The machine has no resource of that name."""

    name: str
    known: tuple[str, ...]
    machine: str

    def __str__(self) -> str:
        return (
            f"machine '{self.machine}' has no resource '{self.name}': {nearest(self.name, self.known)}. "
            "Declare it in prefect-slots.toml and run `prefect-slots register`."
        )


class NotFoundYet(SlotsError, LookupError):
    """The configuration says where to look for a resource, and so far it was not found, or is there no more."""

    name: str
    machine: str

    def __str__(self) -> str:
        return (
            f"machine '{self.machine}' has no '{self.name}' now, although its configuration says where to look for it. "
            "See `prefect-slots detect --explain`, and run `prefect-slots register` once it is there; a worker does so."
        )


class Impossible(SlotsError):
    """The machine can never give this, however long one waits. Prefect is told not to retry it."""

    wanted: str
    largest: str
    machine: str

    def __str__(self) -> str:
        # The largest possible request is named, so that nobody has to find it by trying.
        return f"machine '{self.machine}' can never give {self.wanted}: {self.largest}. Ask for less."


class WaitTimeout(SlotsError, TimeoutError):
    """The request was not granted within its `timeout`; it has left the queue."""

    wanted: str
    seconds: float
    reason: str

    def __str__(self) -> str:
        # The reason was read before the ticket left the queue; afterwards nothing would be in its way.
        return f"not granted within {self.seconds:g} s: {self.reason}"


class OutOfOrder(SlotsError):
    """A nested request could deadlock with another process's, so it is refused before it waits.

    Attributes:
        held_at: Label of the outer request.
        wanted_at: Label of the nested request.
    """

    wanted: str
    held: str
    held_at: str
    wanted_at: str

    def __str__(self) -> str:
        return (
            f"{self.wanted_at} asks for {self.wanted} while {self.held_at} holds {self.held}. "
            "Two tasks nesting these in opposite orders would wait for each other for ever. "
            "Ask for everything in the outer `requires`; the inner one then draws on it."
        )


class GrantClosed(SlotsError):
    """The grant that a nested request draws on has ended, or its GPU has outgrown the grant's part."""

    grant: str

    def __str__(self) -> str:
        return (
            f"grant {self.grant} has ended, or its card was resized, and serves this draw no more; "
            "keep the outer `requires` open while its children run."
        )


class NotRegistered(SlotsError):
    """No process has registered this machine yet, and registering by itself is not asked for."""

    state_dir: str

    def __str__(self) -> str:
        return (
            f"this machine is not registered (state folder {self.state_dir}). Run `prefect-slots register`, "
            "start the worker with `prefect-slots worker start`, or set PREFECT_SLOTS_AUTO_REGISTER=true."
        )


class LimitMissing(SlotsError):
    """The Prefect server does not know a limit that a grant must occupy."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"the Prefect server has no active limit named {', '.join(self.names)}. `prefect-slots register` makes it "
            "(or set PREFECT_SLOTS_AUTO_REGISTER=true). In unit tests set PREFECT_SLOTS_COORDINATION=off."
        )


class LimitConflict(SlotsError):
    """A limit of our name exists with another number, and we did not make it; or it is switched off.

    Attributes:
        problem: Another obstacle and its remedy, if the numbers alone do not say.
    """

    name: str
    theirs: int
    ours: int
    problem: str = ""

    def __str__(self) -> str:
        # Equal numbers conflict too: a limit that is switched off counts nothing, so its number is not the trouble.
        if self.problem:
            return f"limit '{self.name}' ({self.theirs} on the server, {self.ours} here): {self.problem}"
        return (
            f"limit '{self.name}' is {self.theirs} on the server, this machine has {self.ours}, and prefect-slots did "
            "not make it. Take it over with `prefect-slots register --adopt`, or change the name (--name)."
        )


class NameTaken(SlotsError):
    """Another ledger has claimed this machine name on the server."""

    machine: str
    theirs: str
    ours: str
    host: str
    seconds_left: int | None = None

    def __str__(self) -> str:
        return (
            f"the name '{self.machine}' is claimed by another ledger ({self.theirs}, on host {self.host}); this one is "
            f"{self.ours}. Give this machine its own name (`--name`, or `worker` in prefect-slots.toml); if the other "
            "machine is gone for good, take its name with `prefect-slots register --adopt`"
            f"{_by_itself(self.seconds_left)}"
        )


class GpusShared(SlotsError):
    """Another ledger of this host offers the same GPUs, and the settings say that this must not be."""

    gpus: tuple[str, ...]
    folder: str
    user: str
    theirs: str

    def __str__(self) -> str:
        are = "is" if len(self.gpus) == 1 else "are"
        return (
            f"{', '.join(self.gpus)} {are} offered by another ledger of this host too ({self.theirs} in {self.folder}, "
            f"of user {self.user}), and `exclusive` or `partition` forbids that. {SHARE_ONE_LEDGER}."
        )


class GpuTaken(SlotsError):
    """Another ledger has registered GPUs of this machine on the server: both would grant them."""

    gpus: tuple[str, ...]
    machine: str
    theirs: str
    host: str
    seconds_left: int | None = None

    def __str__(self) -> str:
        are = "is" if len(self.gpus) == 1 else "are"
        return (
            f"{', '.join(self.gpus)} {are} registered by machine '{self.machine}' "
            f"(ledger {self.theirs}, on host {self.host}): two ledgers would both grant the same GPU. "
            f"{SHARE_ONE_LEDGER}. If that machine is gone for good, run `prefect-slots register --adopt`"
            f"{_by_itself(self.seconds_left)}"
        )


SHARE_ONE_LEDGER = (
    "Let both share one ledger: mount one local folder into both containers (`-v /var/lib/prefect-slots:"
    "/var/lib/prefect-slots`), and set `state_dir` (PREFECT_SLOTS_STATE_DIR) to it in both; or split the GPUs on "
    "purpose with `partition` and an `exclude` under [gpus] in each"
)
"""The remedy for two ledgers of one GPU, without a full stop."""


def _by_itself(seconds: int | None) -> str:
    return "." if seconds is None else f", or wait: if it stays silent, that happens by itself in {seconds} s."


class ServerUnreachable(SlotsError, ConnectionError):
    """The Prefect server did not answer; trying again may help."""

    url: str
    cause: str

    def __str__(self) -> str:
        return (
            f"no Prefect server answers at {self.url} ({self.cause}). Start it with `prefect server start`, correct "
            "PREFECT_API_URL, or set PREFECT_SLOTS_COORDINATION=local to use this machine's own book alone."
        )


class ServerRefused(SlotsError):
    """The Prefect server refused us; trying again will not help."""

    url: str
    status: int
    detail: str

    def __str__(self) -> str:
        # Only these two statuses mean credentials; the reason of any other refusal stands in the server's log.
        hint = "Set PREFECT_API_KEY or PREFECT_API_AUTH_STRING." if self.status in (401, 403) else "Check its log."
        return f"the Prefect server at {self.url} refused the request (HTTP {self.status}: {self.detail}). {hint}"


class LeaseLost(SlotsError):
    """The server no longer lists a lease that a running grant stands on."""

    limit: str
    grant: str

    def __str__(self) -> str:
        return (
            f"the server lost the lease of grant {self.grant} on '{self.limit}'; others may be using its slots. "
            "See that the server's clock is right and that it keeps its leases over a restart."
        )


class LedgerUnreadable(SlotsError):
    """The ledger file is corrupt, locked for too long, or of another version."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"ledger {self.path}: {self.reason}"


class StateFolderUnsuitable(SlotsError):
    """The state folder cannot hold a ledger.

    `file_system` is its type if that is the reason.
    """

    path: str
    reason: str
    file_system: str | None = None

    @property
    def remedy(self) -> str:
        """The next step, without a full stop."""
        step = "set PREFECT_SLOTS_STATE_DIR to a writable folder on a local disk"
        if self.file_system is None:
            return step
        return (
            f"{step}; or, if only processes of this kernel use it, PREFECT_SLOTS_TRUST_FILE_SYSTEM={self.file_system}, "
            "at the risk of a corrupt ledger and of GPUs granted twice where its locks or shared memory fail"
        )

    def __str__(self) -> str:
        return f"state folder {self.path}: {self.reason}. {self.remedy[0].upper()}{self.remedy[1:]}."


class ConfigError(SlotsError, ValueError):
    """A configuration file or variable is wrong."""

    source: str
    key: str
    reason: str
    line: int | None = None

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" if self.line else self.source
        # A file that cannot be parsed has no key to blame.
        return f"{where}: {self.key}: {self.reason}" if self.key else f"{where}: {self.reason}"


class ConfigDiffers(SlotsError):
    """A registration would take away what another configuration file declared."""

    registered_from: str
    read: str
    differences: tuple[str, ...]

    def __str__(self) -> str:
        read = "no configuration file" if self.read == "defaults" else self.read
        return (
            f"this machine was registered from {self.registered_from}, and this command reads {read}: "
            f"{'; '.join(self.differences)}. Nothing was changed. Name the file (`--config FILE`, or "
            "PREFECT_SLOTS_CONFIG), or run `prefect-slots register --yes` to register this all the same."
        )


class NameDiffers(SlotsError):
    """A machine's name was given that is not the registered one."""

    registered: str
    wanted: str

    def __str__(self) -> str:
        return (
            f"this machine is registered as '{self.registered}', and `--name`, `worker` or WORKER_ID says "
            f"'{self.wanted}'. Leave that out, rename the machine (`prefect-slots register --rename`) while nothing is "
            "held, or give a second machine a state folder of its own (PREFECT_SLOTS_STATE_DIR)."
        )


class RenameRefused(SlotsError):
    """A machine that holds anything cannot be renamed: its leases carry its name."""

    machine: str
    held: int

    def __str__(self) -> str:
        return (
            f"'{self.machine}' cannot be renamed now: {self.held} grants or leases carry its name. Let them end "
            "(`prefect-slots status` names the holders), then try again."
        )


class TaskDied(SlotsError):
    """The process of a pool's task ended without an answer; other tasks go on.

    Attributes:
        exit_code: Exit code of the process, or `None` if a signal ended it.
        signal: The signal that ended it, or `None`.
        out_of_memory: The kernel's OOM killer seems to have ended it: a best guess, by its counter.
        over_declared: It was ended for using more memory than declared (`enforce = "kill"`).
    """

    task: str
    pid: int
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    over_declared: bool = False

    def __str__(self) -> str:
        how = f"exit code {self.exit_code}" if self.signal is None else f"signal {_signal_name(self.signal)}"
        # The kill by `enforce` comes first: the counter of the OOM killer may have moved for another process.
        if self.over_declared:
            remedy = 'It used more than it declared, and `enforce = "kill"`: ask for more with `mem=` or `gpu_mem=`.'
        elif self.out_of_memory:
            remedy = "It was killed by the OOM killer: ask for more with `mem=`, or load less at once."
        else:
            remedy = "What it wrote to standard error may say why; `PYTHONFAULTHANDLER=1` makes it write more."
        return f"the process of {self.task} (pid {self.pid}) died: {how}. {remedy}"


class TaskTimeout(SlotsError, TimeoutError):
    """A pool's task ran longer than its `timeout`; it was killed, and its grant released."""

    task: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.task} ran longer than {self.seconds:g} s and was killed; submit it with a longer `timeout=`"


def _signal_name(number: int) -> str:
    try:
        return f"{number} ({Signals(number).name})"
    # Real-time signals have no names.
    except ValueError:
        return str(number)

"""The doctor's checks: pure functions from facts to findings, in the order in which a person would look."""

import re
from collections.abc import Iterable, Iterator
from functools import partial

from prefect_slots.doctor.facts import Facts, LimitFacts, MirrorFacts, OwnerFacts, StaleFacts, Versions
from prefect_slots.errors import SHARE_ONE_LEDGER
from prefect_slots.model import GPU_MEM, Finding, Severity
from prefect_slots.system.mounts import LOCAL

# As `pyproject.toml` claims: flows hang with 3.6.17 to 3.6.19.
OLDEST_CLIENT = (3, 6, 20)
_INSTALL = f"`pip install 'prefect>={'.'.join(map(str, OLDEST_CLIENT))},<4'`"
# Prefect up to 3.8.8 leaves fastapi unbounded, and its server does not import with this one.
_FIRST_BAD_FASTAPI = (0, 151)
_MIB = 2**20
# A ledger takes a few MiB; programs that share its disk can fill the rest of this within minutes.
_LITTLE_SPACE = 100 * _MIB
# SQLite's write-ahead log must fit between two checkpoints.
_NO_SPACE = 4 * _MIB
_REGISTER = "run `prefect-slots register`"
_FIX = "run `prefect-slots doctor --fix`, or wait: a worker, or whoever waits, does the same"


def judge(facts: Facts) -> tuple[Finding, ...]:
    """Return the findings of all checks."""
    return (
        *judge_versions(facts.versions),
        *judge_settings(facts),
        *judge_folder(facts),
        *judge_ledger(facts),
        *judge_gpus(facts),
        *judge_server(facts),
        *judge_limits(facts.limits),
        *judge_mirrors(facts.mirrors),
        *facts.troubles,
    )


def _finding(severity: Severity, about: str, found: str, remedy: str = "") -> Finding:
    return Finding(subject=about, severity=severity, problem=found, remedy=remedy)


_ok = partial(_finding, "ok")
_note = partial(_finding, "info")
_warning = partial(_finding, "warning")
_error = partial(_finding, "error")


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def judge_versions(versions: Versions) -> Iterator[Finding]:
    """Check the installed versions against each other and the supported ones."""
    about = "versions"
    listed = [f"prefect-slots {versions.ours}"]
    listed += [f"prefect {versions.client}"] if versions.client else []
    listed += [f"server {versions.server}"] if versions.server else []
    yield _ok(about, ", ".join(listed))
    if versions.client is None:
        yield _error(about, "Prefect is not installed", f"install it: {_INSTALL}")
        return
    client = _numbers(versions.client)
    if client and not OLDEST_CLIENT <= client < (4,):
        yield _error(about, f"prefect {versions.client} is not supported", _INSTALL)
    # An older server may lack routes that a newer client calls; the other way round is supported by Prefect.
    if versions.server and _numbers(versions.server) < client:
        found = f"the server ({versions.server}) is older than this client ({versions.client})"
        yield _note(about, found, "update the server when convenient")
    if versions.fastapi and versions.server_is_here and _numbers(versions.fastapi) >= _FIRST_BAD_FASTAPI:
        found = f"fastapi {versions.fastapi} is installed, with which Prefect's server may not start again"
        yield _warning(about, found, "if the server runs from here: `pip install 'fastapi<0.151'`")


def judge_settings(facts: Facts) -> Iterator[Finding]:
    """Check the settings and this machine's name."""
    if facts.settings is not None:
        yield _ok("settings", f"read from {facts.settings}" if facts.settings != "defaults" else "defaults, no file")
    names = facts.names
    if names is None:
        return
    if names.registered and names.setting and names.setting != names.registered:
        unused = f"the name '{names.setting}' from the settings or WORKER_ID is not used"
        remedy = "leave the setting out, or give a second machine a state folder of its own"
        yield _warning("name", f"this ledger is registered as '{names.registered}'; {unused}", remedy)
    elif names.registered:
        yield _ok("name", f"'{names.registered}'")
    # Other tools read WORKER_ID too, and would name this machine otherwise than its limits.
    if names.worker_id and names.setting and names.worker_id != names.setting:
        found = f"WORKER_ID is '{names.worker_id}', the setting `worker` is '{names.setting}'; the setting counts"
        yield _note("name", found, "make them equal, or remove one")


def judge_folder(facts: Facts) -> Iterator[Finding]:
    """Check the state folder and its disk."""
    folder = facts.folder
    if folder is None:
        return
    about = "state folder"
    kind = f" on {folder.file_system}" if folder.file_system else ""
    yield _ok(about, f"{folder.path}{kind}, {folder.free_bytes // _MIB} MiB free")
    if folder.file_system not in LOCAL:
        found = f"{folder.file_system or 'its file system'} is not known to be local, and is trusted by a setting"
        remedy = "move the folder to a local disk: where locks or shared memory fail, GPUs are granted twice"
        yield _warning(about, found, remedy)
    if folder.free_bytes < _NO_SPACE:
        yield _error(about, "its disk is full, so nothing can be granted", "make room on it")
    elif folder.free_bytes < _LITTLE_SPACE:
        yield _warning(about, f"only {folder.free_bytes // _MIB} MiB are left on its disk", "make room on it")
    if folder.ballast is False:
        found = "the ballast file is gone: on a full disk, what is held could not be given back"
        yield _warning(about, found, "make room on the disk; the next process lays it again")


def judge_ledger(facts: Facts) -> Iterator[Finding]:
    """Check the ledger for dead owners and for requests that would wait for ever."""
    ledger = facts.ledger
    if ledger is None:
        if facts.folder is not None and facts.folder.ballast is None:
            yield _warning("ledger", "there is none yet: this machine is not registered", _REGISTER)
        return
    about = "ledger"
    if ledger.machine is None:
        yield _warning(about, f"{ledger.id}: this machine is not registered", _REGISTER)
    else:
        yield _ok(about, f"{ledger.id}, {_count(len(ledger.owners), 'process', 'processes')}")
    if ledger.changed:
        found = f"what this machine has now is not what it registered: {', '.join(ledger.changed)}"
        yield _warning(about, found, _REGISTER)
    for owner in ledger.owners:
        yield from _judge_owner(owner)
    for grant in ledger.unbacked:
        found = f"{grant} goes on although the server does not count all of what it holds: others may take it"
        yield _warning(
            "grants", found, "nothing, if the server is back: slots are taken again as soon as there is room"
        )
    for ticket in ledger.stranded:
        found = f"{ticket} is stranded: what others use, or is broken, leaves too little on every cell"
        yield _warning("waiting", found, "end what uses the resource outside prefect-slots, or ask for less")
    yield from map(_judge_stale, ledger.stale)


def _judge_stale(stale: StaleFacts) -> Finding:
    # An amount that nobody measures any more still blocks cells, so its age and its remedy are told.
    known = f"{stale.used}, told {_age(stale.age)} ago, stands" if stale.used else "nobody has ever told"
    found = f"is stale: {known}; nobody has answered {_count(stale.misses, 'time')} in a row ({stale.why})"
    remedy = "see whether its license server runs and can be reached: `prefect-slots detect --explain` asks it"
    if stale.resource == GPU_MEM:
        remedy = "see `nvidia-smi` and the kernel log: a driver that hangs may need a reboot"
    return _warning(f"others' use of {stale.label or stale.resource}", found, remedy)


def _age(seconds: float) -> str:
    """Return a duration in words, rounded down to the largest unit of which there are two."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _judge_owner(owner: OwnerFacts) -> Iterator[Finding]:
    row = owner.row
    where = f" of another container or {row.namespace}" if owner.elsewhere else ""
    process = f"process {row.pid}{where} ({row.program})"
    if owner.dead:
        left = f"{_count(row.grants, 'grant')}, {_count(row.tickets, 'ticket')}, {_count(row.leases, 'lease')}"
        yield _warning("processes", f"{process} has died and left {left}", _FIX)
    # Race 14: the lock file of a living process is no proof of death, but its successor would see none.
    elif owner.lock_file_missing and owner.elsewhere:
        found = f"the lock file of {process} is gone, so that nothing here tells whether it runs"
        remedy = (
            "exclude the state folder from the cleaning of temporary files; if the process has ended, make the empty "
            f"file owners/{row.lock_file} in it: unlocked, it proves the end"
        )
        yield _warning("processes", found, remedy)
    elif owner.lock_file_missing:
        found = f"{process} runs, but its lock file is gone; something cleans up the state folder"
        remedy = "exclude the state folder from the cleaning of temporary files, then start the process again"
        yield _warning("processes", found, remedy)


def judge_gpus(facts: Facts) -> Iterator[Finding]:
    """Check the order in which processes number the GPUs."""
    if not facts.gpus:
        return
    yield _ok("cards", f"{len(facts.gpus)}: {', '.join(sorted(set(facts.gpus)))}")
    if len(facts.gpus) > 1 and facts.cuda_device_order != "PCI_BUS_ID":
        # Equal GPUs are interchangeable, so another order of them does no harm.
        alike = len(set(facts.gpus)) == 1
        shown = f"is {facts.cuda_device_order}" if facts.cuda_device_order else "is not set"
        found = f"CUDA_DEVICE_ORDER {shown} and there are several cards"
        remedy = "export CUDA_DEVICE_ORDER=PCI_BUS_ID where no worker does it"
        why = "" if alike else ", of different kinds: CUDA numbers them by speed, `nvidia-smi` by place"
        yield (_note if alike else _warning)("cards", found + why, remedy)


def judge_server(facts: Facts) -> Iterator[Finding]:
    """Check the server and the claim of the machine's name."""
    about = "server"
    # Left over from unit tests, it would over-commit the machine in silence.
    if facts.mode == "off":
        remedy = "remove `coordination` from the settings, unless these are unit tests"
        yield _warning(about, 'coordination is "off": every request is granted at once', remedy)
    if facts.mode == "local":
        remedy = "set PREFECT_API_URL to share licences with other machines and to see it in Prefect's UI"
        yield _note(about, "none takes part: this machine decides alone", remedy)
    if facts.server is None:
        return
    yield _ok(about, f"{facts.server.url} answers; its database is {facts.server.database}")
    yield from _judge_leases(facts.server.lease_storage)
    if facts.claimed:
        yield _ok("name on the server", "claimed by this ledger")
    elif facts.claimed is False and facts.ledger is not None and facts.ledger.machine is not None:
        yield _warning("name on the server", f"'{facts.ledger.machine}' is claimed by nobody", _REGISTER)
    for shared in facts.shared:
        other = f"another ledger ({shared.ledger}, of machine '{shared.machine}' on host {shared.host})"
        if shared.refused:
            yield _warning("shared gpus", f"{other} wanted {shared.gpu} and was refused", _share())
        else:
            yield _error("shared gpus", f"{shared.gpu} is claimed by {other} too: both would grant it", _share())
    if facts.gone:
        found = f"{_count(len(facts.gone), 'machine')} gave no sign of life for long: {', '.join(facts.gone)}"
        yield _note(
            "other machines", found, "run `prefect-slots register --prune` to remove them (`--dry-run` shows them)"
        )


def _judge_leases(storage: str | None) -> Iterator[Finding]:
    about = "leases"
    if storage is None:
        yield _note(about, "the server does not tell where it keeps them")
        return
    # The setting names a module; the last word of it is the kind, but for a package of somebody's own.
    kind = storage.rpartition(".")[2]
    if kind != "memory":
        yield _ok(about, f"kept in {kind if kind != 'lease_storage' else storage}")
        return
    keep = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem"
    found = (
        "the server keeps them in memory: after its restart, slots that prefect-slots held are put right by "
        "prefect-slots, and those that other tools held stay taken"
    )
    yield _warning(about, found, f"set {keep} for the server")
    found = "whether several servers share this API cannot be seen from here; with leases in memory they must not"
    yield _note(about, found, "run one server, or keep leases where all of them look")


def judge_limits(limits: tuple[LimitFacts, ...] | None) -> Iterator[Finding]:
    """Check the server's limits against the machine, and their counts against the ledger."""
    if limits is None:
        return
    found = [finding for limit in limits for finding in (*_judge_number(limit), *_judge_count(limit))]
    if not any(finding.severity in ("warning", "error") for finding in found):
        wanted = sum(limit.new is not None for limit in limits)
        yield _ok("limits", f"{_count(wanted, 'limit')} as registered, counting what is held")
    yield from found


def _judge_number(limit: LimitFacts) -> Iterator[Finding]:
    about = f"limit {limit.name}"
    # The plan of a registration that is not carried out: its actions are the differences.
    if limit.action == "create":
        yield _error(about, "is missing on the server, so requests for it fail", _REGISTER)
    elif limit.action == "conflict":
        problem, _, remedy = limit.problem.partition("; ")
        number = "" if limit.old == limit.new else f"is {limit.old} on the server and {limit.new} here: "
        yield _error(about, number + problem, remedy)
    elif limit.action in ("lowered", "switched off"):
        problem, _, remedy = limit.problem.partition("; ")
        yield _warning(about, problem, remedy)
    elif limit.action == "change":
        yield _warning(about, f"is {limit.old} on the server, this machine has {limit.new}", _REGISTER)
    elif limit.action == "orphaned":
        yield _note(about, "belongs to nothing that this machine has", "run `prefect-slots register --prune`")
    # Each call names limit and mirror (rule 16), and a missing name fails it.
    if limit.action in ("unchanged", "change", "lowered", "switched off") and limit.mirror is None:
        yield _error(about, "has no mirror for this ledger on the server, so requests for it fail", _REGISTER)


def _judge_count(limit: LimitFacts) -> Iterator[Finding]:
    about = f"limit {limit.name}"
    # Too few counted slots is an error: others may take what is in use. Too many only keeps others waiting.
    if limit.lacking or limit.lacking_on_mirror:
        counted = min(limit.ours, max(0, limit.active - limit.others))
        found = f"the server counts {counted} of this machine's slots, which holds {limit.least}"
        yield _error(about, f"{found}: others may take what is in use", _FIX)
    elif limit.excess:
        yield _warning(about, f"the server counts {limit.ours} slots of this machine, which holds {limit.most}", _FIX)
    # Slots on no mirror were taken by other tools than prefect-slots, which is their right.
    if limit.foreign:
        yield _note(about, f"{limit.foreign} of {limit.old} slots are held by others than prefect-slots")


def judge_mirrors(mirrors: Iterable[MirrorFacts]) -> Iterator[Finding]:
    """Check this machine's limits for slots that other ledgers have left on them."""
    # Slots of a living ledger are its own to give back; only a former one has nobody left for them.
    for mirror in mirrors:
        about = f"mirror {mirror.name}"
        uncovered = f"counts {mirror.active} slots for which the server lists no lease"
        if mirror.former and mirror.active and not mirror.holders:
            found = f"a former ledger of this machine {uncovered}: nobody gives them back"
            yield _warning(about, found, "run `prefect-slots doctor --fix`")
        elif mirror.former and not mirror.active:
            yield _note(about, "is left from a former ledger of this machine", "run `prefect-slots register --prune`")
        elif mirror.active and not mirror.holders:
            yield _note(about, f"another machine's ledger {uncovered}", "run `prefect-slots doctor --fix` there")


def _share() -> str:
    return SHARE_ONE_LEDGER[0].lower() + SHARE_ONE_LEDGER[1:]


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"

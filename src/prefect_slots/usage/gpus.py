"""A look at the GPUs, written into the ledger: memory in foreign use is not free, and waiters learn of it at once.

A grant keeps all that it declared until it ends, even while it uses little, so the memory of its processes is never
subtracted a second time. Memory that a process keeps after the end of its grant is subtracted as long as it is there.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from prefect_slots.detect.gpu import drm_usage, nvml
from prefect_slots.detect.gpu.usage import DeviceUse, Peak, UseReading, foreign_use, hold, query_use
from prefect_slots.ledger import queries, registry, transaction, usage
from prefect_slots.model import GPU_MEM, MEM, RegisteredCell, amount, book, finding
from prefect_slots.settings import Settings
from prefect_slots.system import container, processes, sysfs, threads
from prefect_slots.usage import foreign, overuse

# A driver uses about this much of a GPU for itself: a whole GPU that lacks no more is granted as a whole GPU.
CRUMBS_MIB = 64
# Display servers and compositors by the first 15 bytes of their names, as the kernel has them. Some compute on the GPU
# too, so that the driver's lists do not tell them from others.
COMPOSITORS = frozenset({
    "X", "Xorg", "Xorg.bin", "Xwayland", "gnome-shell", "gnome-session-b", "gnome-remote-de", "kwin_wayland",
    "kwin_x11", "plasmashell", "mutter", "weston", "sway", "Hyprland", "cosmic-comp", "labwc", "wayfire", "gamescope",
    "niri",
    "cinnamon", "xfwm4", "marco", "muffin", "compiz", "picom", "budgie-wm", "sddm-greeter", "lightdm-gtk-gre",
    "xdg-desktop-por", "nxagent", "nxnode.bin", "Xvnc", "dwm.exe",
})  # fmt: skip
# Strangers that a reason names: more would hide it.
_NAMED = 3
# After the end of a grant its processes take about this long to give their memory back.
_SETTLING_SECONDS = 2.0
# A holder of slots that were taken by hand may take this long to use the memory that they stand for.
_RAMP_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class GpusSeen:
    """A reading of the GPUs and of the processes on them.

    Attributes:
        lineage: Those processes and their ancestors.
        tokens: The grant that a process was started under, as its environment names it, by process id.
        at: Time at which reading began, a Unix time.
    """

    reading: UseReading
    lineage: Mapping[int, processes.ProcessInfo] = field(default_factory=dict[int, processes.ProcessInfo])
    tokens: Mapping[int, str] = field(default_factory=dict[int, str])
    around: container.Surroundings = field(default_factory=container.Surroundings)
    at: float


def read_gpus(now: float, keys: Collection[str], root: Path = sysfs.ROOT) -> GpusSeen:
    """Ask NVML and the kernel for the use of GPUs, and read the processes that they name. A driver may hang in it.

    Args:
        now: The present, a Unix time.
        keys: Keys of this machine's GPUs; GPUs of other vendors than NVIDIA are read only if they are among them.
        root: The folder that stands for `/`.
    """
    told = query_use()
    reading = replace(told, devices=(*told.devices, *drm_usage.query_drm_use(root, keys)))
    pids = {pid for device in reading.devices for pid in device.processes or ()}
    return GpusSeen(
        reading=reading,
        lineage=processes.query_lineage(pids),
        tokens=processes.query_variable(book.TOKEN, pids),
        around=container.query_pids(root),
        at=now,
    )


def look_at_gpus(keys: Collection[str], seconds: float) -> GpusSeen:
    """Return `read_gpus`, or after that many seconds a failure: a driver that hangs counts as one that fails."""
    now = time.time()
    look = threads.Look(partial(read_gpus, now, keys), seconds)
    seen = threads.LOOKOUT.send({nvml.NVIDIA: look})[nvml.NVIDIA]
    if isinstance(seen, threads.Hanging):
        return GpusSeen(reading=UseReading(failure=nvml.Failure(code=None, words=seen.words)), at=now)
    return seen


class GpuHolders:
    """The holders of each GPU, and their processes among those seen on the GPUs."""

    def __init__(self, tx: transaction.Transaction, seen: GpusSeen) -> None:
        self._parts = queries.holdings(tx, GPU_MEM)
        self._lineage = seen.lineage
        self._named = overuse.grants_named(seen.tokens, tx.meta("ledger_id") or "")
        # Some grants ended between the look and this transaction, or a little before.
        self._ended = queries.history(tx, GPU_MEM, seen.at - _SETTLING_SECONDS)
        self.members = processes.descendants(queries.owner_pids(tx), seen.lineage)

    def on(self, number: int) -> frozenset[int]:
        """Return the processes whose memory on that GPU is reserved by grants.

        A process that outlived its parent is no longer a descendant of a holder; its environment still names its grant.
        """
        parts, ended = self._parts_on(number), [span for span in self._ended if span.number == number]
        grants = {each.grant for each in (*parts, *ended)}
        # A grant of a task process does not reserve memory that its owner itself has on the GPU.
        pids = {pid for part in parts for pid in [pid for pid, _ in part.processes] or [part.pid]}
        pids |= {span.pid for span in ended} | {pid for pid, grant in self._named.items() if grant in grants}
        # Zero is the parent of the first process: with it, every process of the machine would be a holder's.
        return processes.descendants([pid for pid in pids if pid], self._lineage)

    def belonging(self, number: int) -> overuse.Belonging:
        """Return the grants on that GPU and their processes."""
        parents = {pid: info.parent for pid, info in self._lineage.items()}
        return overuse.Belonging(self._parts_on(number), self._named, parents)

    def granted(self, number: int) -> tuple[int, int]:
        """Return the MiB of all grants on that GPU, and of those whose processes cannot be recognized by their ids."""
        found = set(self._named.values())
        roots = [part for part in self._parts_on(number) if part.source is None]
        # Memory of a grant that has just ended may still be there, whoever is given it next.
        ended = [span for span in self._ended if span.number == number]
        hidden = {part.grant for part in self._parts_on(number) if part.elsewhere and part.grant not in found}
        hidden |= {part.source for part in self._parts_on(number) if part.grant in hidden and part.source is not None}
        return (
            sum(part.declared for part in roots) + sum(span.amount for span in ended),
            sum(part.declared for part in roots if part.grant in hidden)
            + sum(span.amount for span in ended if not span.pid and span.grant not in found),
        )

    def _parts_on(self, number: int) -> list[queries.Part]:
        return [part for part in self._parts if part.cell.number == number]


def note_gpus(
    tx: transaction.Transaction, seen: GpusSeen, settings: Settings, *, between: bool = False
) -> overuse.Noted:
    """Record a reading of the GPUs, and let the scheduler decide on the memory that is left.

    Args:
        tx: The transaction to write in.
        seen: The reading.
        settings: Settings of this process.
        between: It was made for one decision between the looks of the monitor, which alone count failures in a row and
            looks at overuse.
    """
    holders = GpuHolders(tx, seen)
    devices = {device.uuid: device for device in seen.reading.devices}
    known = usage.read_outside(tx)
    registered = registry.registered(tx)
    counted = registry.counted(tx)
    stale: list[finding.Stale] = []
    excesses: list[overuse.Excess] = []
    changed, blocked = False, 0
    for cell in registered.cells(GPU_MEM):
        device = devices.get(cell.key)
        if cell.id not in known and device is None:
            continue  # a declared GPU, or one of a vendor that tells no use
        before = known.get(cell.id) or usage.Outside(cell=cell.id)
        before = replace(
            before, counted=foreign.remembered(before.counted, seen.at, counted.get(cell.id, 0), _RAMP_SECONDS)
        )
        over = 0
        if device is None or (device.used is None and device.why):
            if between:
                continue
            after = replace(before, asked_at=seen.at, misses=before.misses + 1, why=_failure(device, seen.reading))
            if after.misses == settings.stale_after:
                stale.append(foreign.stale_of(after, registered.machine, f"gpu {cell.id.number} {cell.label}".strip()))
        else:
            after = _seen(before, seen, device, holders, settings)
            if not seen.around.why_pids_mislead and device.processes is not None:
                belonging = holders.belonging(cell.id.number)
                groups = tuple(overuse.groups(belonging, device.processes))
                # An excess is not free either: the next grant would run out of memory together with its neighbor.
                over = sum(group.excess for group in groups)
                if not between:
                    excesses += overuse.judge(tx, groups, belonging.roots.values())
        usage.write_outside(tx, after)
        if device is not None and device.processes is not None:
            changed |= _note_users(tx, cell, seen, device, holders, settings)
        blocked += min(cell.capacity, (after.used or 0) + over)
        changed |= registry.block(tx, cell.id, min(cell.capacity, (after.used or 0) + over))
    for cell in registered.cells(MEM):
        # The same bytes where the GPU shares them.
        changed |= registry.block(tx, cell.id, min(cell.capacity, blocked) if registered.unified else 0)
    if changed:
        registry.note_change(tx)
        tx.apply(book.Changed())
    advice = () if between else overuse.suggestions(tx)
    return overuse.Noted(stale=tuple(stale), excesses=tuple(excesses), suggestions=advice)


def _note_users(
    tx: transaction.Transaction,
    cell: RegisteredCell,
    seen: GpusSeen,
    device: DeviceUse,
    holders: GpuHolders,
    settings: Settings,
) -> bool:
    """Record the strangers on a GPU, and their part that draws; return whether that part is news."""
    own = holders.on(cell.id.number) | holders.members
    ignored = _ignored(seen, settings)
    strangers = {pid: used or 0 for pid, used in (device.processes or {}).items() if pid not in own | ignored}
    # In another namespace the driver's number is another process here, and its name says nothing.
    lineage = {} if seen.around.why_pids_mislead else seen.lineage
    drawing = device.drawing | processes.named(COMPOSITORS, lineage)
    display = amount.bytes_used(sum(used for pid, used in strangers.items() if pid in drawing))
    # With ids of another namespace, processes of ours would be named.
    granted, elsewhere = holders.granted(cell.id.number)
    shown = {} if elsewhere or (granted and seen.around.why_pids_mislead) else strangers
    largest = sorted(shown, key=lambda pid: -shown[pid])[:_NAMED]
    words = ", ".join(_user(pid, strangers[pid], seen) for pid in largest)
    return registry.note_users(tx, cell.id, words, display if display <= settings.declarations.gpus.display_mib else 0)


def _user(pid: int, used: int, seen: GpusSeen) -> str:
    info = None if seen.around.why_pids_mislead else seen.lineage.get(pid)
    name = finding.printable(info.name) if info is not None else "a program"
    return f"{name} (pid {pid}) with {amount.bytes_used(used)} MiB"


def _ignored(seen: GpusSeen, settings: Settings) -> frozenset[int]:
    ignore = settings.declarations.gpus.ignore
    named = processes.named({name for name in ignore if isinstance(name, str)}, seen.lineage)
    return named | {pid for pid in ignore if isinstance(pid, int)}


def _failure(device: DeviceUse | None, reading: UseReading) -> str:
    if device is not None:
        return device.why
    # NVIDIA's failure says nothing of a GPU that is missing where other vendors' GPUs answer.
    failure = None if reading.devices else reading.failure
    return failure.words if failure is not None else "the driver does not list it"


def _seen(
    before: usage.Outside, seen: GpusSeen, device: DeviceUse, holders: GpuHolders, settings: Settings
) -> usage.Outside:
    ignored = _ignored(seen, settings)
    own, kept = holders.on(before.cell.number), 0
    if device.processes is not None and not seen.around.why_pids_mislead:
        kept = amount.bytes_used(sum(device.processes.get(pid) or 0 for pid in holders.members - own - ignored))
        own |= holders.members
    granted, elsewhere = holders.granted(before.cell.number)
    use = foreign_use(device, own=own, ignored=ignored, around=seen.around, granted=granted, elsewhere=elsewhere)
    strangers = use.mib
    if strangers is None:
        if use.within is None:
            return replace(before, asked_at=seen.at, misses=0, why=use.why)
        least, most = use.within
        # Use that was known before our holders came still stands, as far as it can be there.
        strangers = min(most, max(least, before.peak[-1][1] if before.peak else 0))
    strangers = strangers if strangers > CRUMBS_MIB else 0
    peak = hold(Peak(seen=before.peak, latest=before.seen_at), strangers, seen.at, seconds=settings.hold_seconds)
    # Use by strangers goes up and down, so its peak is held back. Memory that our own processes keep without a grant is
    # free as soon as they give it back.
    used = foreign.beyond(peak.mib or 0, foreign.settled(before.counted, seen.at - _RAMP_SECONDS)) + kept
    # An estimate is not kept as what was known: it would stand for as long as anybody holds something.
    known = before.peak if use.mib is None else peak.seen
    return replace(before, used=used, seen_at=seen.at, asked_at=seen.at, peak=known, misses=0, why=use.why)

"""One look at the cards, written into the ledger: what others use of each is not free, and waiters learn of it at once.

A grant keeps all that it declared until it ends, however little of it is used yet, so the memory of its processes is
never taken off a second time. What a process keeps after its grant has ended is taken off as long as it is there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from prefect_slots.detect.gpu.usage import DeviceUse, ForeignUse, Peak, foreign_use, hold
from prefect_slots.ledger import queries, registry, usage
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.ledger.usage import Outside
from prefect_slots.model.amount import bytes_used
from prefect_slots.model.book import Changed
from prefect_slots.model.finding import Stale
from prefect_slots.model.resource import GPU_MEM
from prefect_slots.system.processes import named
from prefect_slots.usage.foreign import beyond, remembered, settled
from prefect_slots.usage.gpu_holders import CardsSeen, Ours
from prefect_slots.usage.overuse import Excess, groups, judge, suggestions

if TYPE_CHECKING:
    from prefect_slots.settings import Settings

CRUMBS_MIB: Final = 64
"""What a driver uses of a card for itself: a whole card that lacks no more than this is given as a whole card."""
_RAMP_SECONDS: Final = 60.0
"""How long after it has taken slots by hand somebody may take to use the memory that they stand for."""


@dataclass(frozen=True, kw_only=True)
class CardsNoted:
    """What a look at the cards means.

    Attributes:
        stale: Cards of which nobody has told for as many looks as the settings allow, told once.
        excesses: Grants that use more than they declared.
        suggestions: What grants that have ended might have declared.
    """

    stale: tuple[Stale, ...]
    excesses: tuple[Excess, ...]
    suggestions: tuple[str, ...]


def note_cards(tx: Transaction, seen: CardsSeen, settings: Settings) -> CardsNoted:
    """Write down what was seen of the cards, and let the scheduler decide on what is left."""
    parts = queries.holdings(tx, GPU_MEM)
    ours = Ours(tx, seen, parts)
    devices = {device.uuid: device for device in seen.reading.devices}
    known = usage.read_outside(tx)
    ignored = _ignored(settings, seen)
    stale: list[Stale] = []
    excesses: list[Excess] = []
    changed = False
    registered = registry.registered(tx)
    counted = registry.counted(tx)
    for cell in registered.cells(GPU_MEM):
        number = cell.id.number
        before = known.get(cell.id)
        device = devices.get(cell.key)
        if before is None and device is None:
            continue  # a declared card, or another vendor's
        before = before or Outside(cell=cell.id)
        before = replace(before, counted=remembered(before.counted, seen.at, counted.get(cell.id, 0), _RAMP_SECONDS))
        over = 0
        if device is None or (device.used is None and device.why):
            # NVIDIA's failure says nothing where another maker's cards answer.
            failure = None if seen.reading.devices else seen.reading.failure
            words = device.why if device is not None else failure.words if failure else "the driver does not list it"
            after = replace(before, asked_at=seen.at, misses=before.misses + 1, why=words)
            if after.misses == settings.stale_after:
                where = f"gpu {number} {cell.label}".strip()
                stale.append(_stale(registered.machine or "", where, after))
        else:
            after = _seen(before, seen, _Others(device, ours, number, ignored, seen), settings.hold_seconds)
            if not seen.around.why_pids_mislead and device.processes is not None:
                belonging = ours.belonging(number, parts)
                found = judge(tx, groups(belonging, device.processes), belonging.roots.values())
                excesses += found
                over = sum(excess.mib for excess in found)
        usage.write_outside(tx, after)
        changed |= registry.block(tx, cell.id, min(cell.capacity, (after.used or 0) + over))
    if changed:
        registry.note_change(tx)
        tx.apply(Changed())
    return CardsNoted(stale=tuple(stale), excesses=tuple(excesses), suggestions=tuple(suggestions(tx)))


def _ignored(settings: Settings, seen: CardsSeen) -> frozenset[int]:
    ignore = settings.declarations.gpus.ignore
    names = {name for name in ignore if isinstance(name, str)}
    return named(names, seen.lineage) | {pid for pid in ignore if isinstance(pid, int)}


@dataclass(frozen=True)
class _Others:
    """What strangers use of a device, and what our processes keep of it without a grant."""

    device: DeviceUse
    ours: Ours
    number: int
    ignored: frozenset[int]
    seen: CardsSeen

    def strangers(self) -> ForeignUse:
        own = self.ours.on(self.number)
        if self.device.processes is not None and not self.seen.around.why_pids_mislead:
            own |= self.ours.members()
        use = foreign_use(self.device, own=own, ignored=self.ignored, around=self.seen.around)
        return use if use.mib is None or use.mib > CRUMBS_MIB else ForeignUse(mib=0)

    def kept(self) -> int:
        if self.device.processes is None or self.seen.around.why_pids_mislead:
            return 0
        without = self.ours.members() - self.ours.on(self.number) - self.ignored
        return bytes_used(sum(self.device.processes.get(pid) or 0 for pid in without))


def _seen(before: Outside, seen: CardsSeen, others: _Others, hold_seconds: float) -> Outside:
    use = others.strangers()
    if use.mib is None:
        return replace(before, asked_at=seen.at, misses=0, why=use.why)
    peak = hold(Peak(seen=before.peak, latest=before.seen_at), use.mib, seen.at, seconds=hold_seconds)
    # What strangers use goes up and down; what our own processes keep is theirs to give back, and then it is free.
    used = beyond(peak.mib or 0, settled(before.counted, seen.at - _RAMP_SECONDS)) + others.kept()
    return replace(before, used=used, seen_at=seen.at, asked_at=seen.at, peak=peak.seen, misses=0, why="")


def _stale(machine: str, where: str, after: Outside) -> Stale:
    return Stale(
        machine=machine, resource=GPU_MEM, label=where, seen_at=after.seen_at, misses=after.misses, why=after.why
    )

"""What others use of this machine at this moment, for people who ask: looked at once, and nothing written down."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prefect_slots.detect.gpu.nvml import NVIDIA
from prefect_slots.detect.gpu.usage import foreign_use
from prefect_slots.detect.licenses.client import DESK
from prefect_slots.detect.licenses.report import Counted
from prefect_slots.ledger import registry, usage
from prefect_slots.ledger.folder import folder_with
from prefect_slots.ledger.schema import FILE
from prefect_slots.ledger.store import Ledger
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.model.amount import MIB, SEATS
from prefect_slots.model.resource import GPU_MEM
from prefect_slots.scheduling.decide import decide
from prefect_slots.system.processes import Users
from prefect_slots.system.threads import LOOKOUT, Hanging, Look
from prefect_slots.usage.foreign import Fleet
from prefect_slots.usage.gpu_holders import CardsSeen, read_cards
from prefect_slots.usage.gpus import note_cards
from prefect_slots.usage.licenses import SeatsSeen, ask_servers, note_seats

if TYPE_CHECKING:
    from prefect_slots.settings import Settings


@dataclass(frozen=True, kw_only=True)
class OthersUse:
    """What others use of one place.

    Attributes:
        key: The cell's key: a card's UUID.
        used: `None` where it cannot be told, and `why` says why; a number beside a `why` is the one known last.
    """

    resource: str
    key: str
    unit: str
    used: int | None
    why: str = ""


def others_now(settings: Settings, env: Mapping[str, str], keys: Collection[str]) -> tuple[OthersUse, ...]:
    """Look at the cards and ask the licence servers; what is ours is known from the ledger, where there is one.

    Args:
        settings: Where to look.
        env: The environment of the licence servers' programs.
        keys: The cells of this machine, as it was surveyed.
    """
    declarations = settings.declarations
    cards = _cards_now(settings, keys) if declarations.gpus.detect else None
    seats = ask_servers(declarations.license_servers, env, DESK)
    folder = folder_with(FILE, settings.state_dir, env)
    if folder is None:
        return tuple(_of_nobody(cards, seats))
    with closing(Ledger(folder, partial(decide, max_overtakes=settings.max_overtakes))) as ledger:
        found = ledger.rehearse(lambda tx: _noted(tx, cards, seats, settings))
    known = {(use.resource, use.key) for use in found}
    return (*found, *(use for use in _of_nobody(cards, seats) if (use.resource, use.key) not in known))


def _cards_now(settings: Settings, keys: Collection[str]) -> CardsSeen | None:
    """Look at the cards; `None` where the driver hangs."""
    look = Look(partial(read_cards, time.time(), keys), settings.detect_seconds)
    seen = LOOKOUT.send({NVIDIA: look})[NVIDIA]
    return None if isinstance(seen, Hanging) else seen


def _noted(
    tx: Transaction, cards: CardsSeen | None, seats: tuple[SeatsSeen, ...], settings: Settings
) -> list[OthersUse]:
    if cards is not None:
        note_cards(tx, cards, settings)
    note_seats(seats, tx, Fleet(counted={}), Users(), settings.stale_after)
    shown = usage.read_outside(tx)
    return [
        OthersUse(resource=resource.name, key=cell.key, unit=resource.unit, used=seen.used, why=seen.why)
        for resource in registry.registered(tx).resources
        for cell in resource.cells
        if cell.present and (seen := shown.get(cell.id)) is not None
    ]


def _of_nobody(cards: CardsSeen | None, seats: tuple[SeatsSeen, ...]) -> Iterator[OthersUse]:
    """Yield what is used where nothing is held by anybody of ours."""
    if cards is not None:
        for device in cards.reading.devices:
            use = foreign_use(device, own=(), around=cards.around)
            yield OthersUse(resource=GPU_MEM, key=device.uuid, unit=MIB, used=use.mib, why=use.why)
    for told in seats:
        usage = told.feature.usage if told.feature is not None else None
        used = usage.used if isinstance(usage, Counted) else None
        if used is not None or told.why:
            yield OthersUse(resource=told.resource, key="0", unit=SEATS, used=used, why=told.why)

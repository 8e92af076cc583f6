"""A snapshot of foreign use for people who ask: one look at this moment, of which nothing is recorded."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from prefect_slots.detect.gpu.usage import foreign_use
from prefect_slots.detect.licenses import client, report
from prefect_slots.ledger import folder, registry, schema, usage
from prefect_slots.ledger.store import Ledger
from prefect_slots.ledger.transaction import Transaction
from prefect_slots.model.amount import MIB, SEATS
from prefect_slots.model.resource import GPU_MEM
from prefect_slots.scheduling.decide import decide
from prefect_slots.settings import Settings
from prefect_slots.system.processes import Users
from prefect_slots.usage.foreign import Fleet
from prefect_slots.usage.gpus import GpusSeen, look_at_gpus, note_gpus
from prefect_slots.usage.licenses import SeatsSeen, ask_servers, note_seats


@dataclass(frozen=True, kw_only=True)
class OthersUse:
    """Foreign use of one cell.

    Attributes:
        key: The cell's key, such as a GPU's UUID.
        unit: The unit of `used`.
        used: The amount; `None` if it cannot be told, for the reason `why`. Beside a reason it is the last one known.
    """

    resource: str
    key: str
    unit: str
    used: int | None
    why: str = ""


def others_now(settings: Settings, env: Mapping[str, str], keys: Collection[str]) -> tuple[OthersUse, ...]:
    """Look at the GPUs and ask the license servers; our own use is known from the ledger, where there is one.

    Args:
        settings: The declared license servers, and where the ledger may be.
        env: The environment of the license servers' programs.
        keys: Keys of this machine's cells, from its survey.
    """
    declarations = settings.declarations
    # First, because it may take long: the ledger is not locked meanwhile.
    gpus = look_at_gpus(keys, settings.detect_seconds) if declarations.gpus.detect else None
    seats = ask_servers(declarations.license_servers, env, client.DESK)
    state = folder.folder_with(schema.FILE, settings.state_dir, env)
    if state is None:
        return tuple(_of_nobody(gpus, seats))
    with closing(Ledger(state, partial(decide, max_overtakes=settings.max_overtakes))) as ledger:
        found = ledger.rehearse(lambda tx: _noted(tx, gpus, seats, settings))
    known = {(use.resource, use.key) for use in found}
    return (*found, *(use for use in _of_nobody(gpus, seats) if (use.resource, use.key) not in known))


def _noted(tx: Transaction, gpus: GpusSeen | None, seats: tuple[SeatsSeen, ...], settings: Settings) -> list[OthersUse]:
    if gpus is not None:
        note_gpus(tx, gpus, settings)
    note_seats(seats, tx, Fleet(counted={}), Users(), settings.stale_after)
    shown = usage.read_outside(tx)
    return [
        OthersUse(resource=resource.name, key=cell.key, unit=resource.unit, used=seen.used, why=seen.why)
        for resource in registry.registered(tx).resources
        for cell in resource.cells
        if cell.present and (seen := shown.get(cell.id)) is not None
    ]


def _of_nobody(gpus: GpusSeen | None, seats: tuple[SeatsSeen, ...]) -> Iterator[OthersUse]:
    """Yield the use of every GPU and license as foreign: on a machine without a ledger nothing is ours."""
    if gpus is not None:
        for device in gpus.reading.devices:
            use = foreign_use(device, own=(), around=gpus.around)
            yield OthersUse(resource=GPU_MEM, key=device.uuid, unit=MIB, used=use.mib, why=use.why)
    # A license has one cell, and its key is always 0.
    for told in seats:
        usage = told.feature.usage if told.feature is not None else None
        used = usage.used if isinstance(usage, report.Counted) else None
        if used is not None or told.why:
            yield OthersUse(resource=told.resource, key="0", unit=SEATS, used=used, why=told.why)

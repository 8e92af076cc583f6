"""A snapshot of foreign use for people who ask: one look at this moment, of which nothing is recorded."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from prefect_slots.detect.gpu.usage import foreign_use
from prefect_slots.detect.licenses import client, report
from prefect_slots.ledger import folder, registry, schema, store, transaction, usage
from prefect_slots.model import amount, resource
from prefect_slots.scheduling.decide import decide
from prefect_slots.settings import Settings
from prefect_slots.system.processes import Users
from prefect_slots.usage import foreign, gpus, licenses


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
    # First, because it may take long: the ledger is not locked meanwhile.
    on_gpus = gpus.look_at_gpus(keys, settings.detect_seconds) if settings.declarations.gpus.detect else None
    seats = licenses.ask_servers(settings.declarations.license_servers, env, client.DESK)
    strangers = tuple(_of_nobody(on_gpus, seats))
    state = folder.folder_with(schema.FILE, settings.state_dir, env, settings.partition)
    if state is None:
        return strangers

    def note(tx: transaction.Transaction) -> list[OthersUse]:
        if on_gpus is not None:
            gpus.note_gpus(tx, on_gpus, settings)
        licenses.note_seats(seats, tx, foreign.Fleet(counted={}), Users(), settings.stale_after)
        shown = usage.read_outside(tx)
        return [
            OthersUse(resource=each.name, key=cell.key, unit=each.unit, used=seen.used, why=seen.why)
            for each in registry.registered(tx).resources
            for cell in each.cells
            if cell.present and (seen := shown.get(cell.id)) is not None
        ]

    with closing(store.Ledger(state, partial(decide, max_overtakes=settings.max_overtakes))) as ledger:
        found = ledger.rehearse(note)
    known = {(use.resource, use.key) for use in found}
    return (*found, *(use for use in strangers if (use.resource, use.key) not in known))


def _of_nobody(seen: gpus.GpusSeen | None, seats: tuple[licenses.SeatsSeen, ...]) -> Iterator[OthersUse]:
    """Yield the use of every GPU and license as foreign: on a machine without a ledger nothing is ours."""
    if seen is not None:
        for device in seen.reading.devices:
            use = foreign_use(device, own=(), around=seen.around)
            yield OthersUse(resource=resource.GPU_MEM, key=device.uuid, unit=amount.MIB, used=use.mib, why=use.why)
    # A license has one cell, and its key is always 0.
    for told in seats:
        in_use = told.feature.usage if told.feature is not None else None
        used = in_use.used if isinstance(in_use, report.Counted) else None
        if used is not None or told.why:
            yield OthersUse(resource=told.resource, key="0", unit=amount.SEATS, used=used, why=told.why)

"""The meeting of this ledger with others of the same host: a warning, or a refusal where the settings say so."""

from collections.abc import Collection

from prefect_slots.errors import SHARE_ONE_LEDGER, GpusShared
from prefect_slots.ledger import neighbors, store
from prefect_slots.model import Finding
from prefect_slots.settings import Settings


def meet(
    ledger: store.Ledger, settings: Settings, gpus: Collection[str], *, dry_run: bool = False
) -> tuple[Finding, ...]:
    """Leave a note of this ledger's GPUs, and return a finding for each other ledger of this host that has them too.

    Raises:
        GpusShared: if the settings forbid it.
    """
    place = settings.meeting_dir or neighbors.meeting_place()
    if place is None or not gpus:
        return ()
    if not dry_run:
        neighbors.announce(place, ledger.id, ledger.folder, gpus)
    found = neighbors.neighbors(place, ledger.id, gpus)
    if found and (settings.exclusive or settings.partition is not None) and not dry_run:
        other = found[0]
        raise GpusShared(gpus=other.gpus, folder=other.folder, user=other.user, theirs=other.ledger)
    return tuple(
        Finding(
            subject=", ".join(other.gpus),
            problem=f"is offered by another ledger of this host too, which is in use: {other.ledger} in "
            f"{other.folder}, of user {other.user}; both grant it",
            remedy=f"{SHARE_ONE_LEDGER[0].lower()}{SHARE_ONE_LEDGER[1:]}",
        )
        for other in found
    )

"""Mends what a doctor has found: what the dead have left, and slots that the server counts and nobody holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prefect_slots.acquire.session import Session
from prefect_slots.doctor.facts import MirrorFacts
from prefect_slots.leases.reconcile import reconcile
from prefect_slots.ledger import leases
from prefect_slots.ledger.leases import LeaseState
from prefect_slots.ledger.store import Ledger
from prefect_slots.limits.naming import split_mirror
from prefect_slots.settings import Settings
from prefect_slots.system import clock

if TYPE_CHECKING:
    from prefect_slots.limits.gateway import Gateway

# Longer than what is on its way takes to settle: a lost answer, a lapsed lease.
_LONGEST_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.3
_ON_ITS_WAY: Final = (LeaseState.INTENT, LeaseState.RELEASING, LeaseState.LAPSED, LeaseState.REPAIR)


async def mend(folder: Path, settings: Settings, url: str | None, mirrors: Iterable[MirrorFacts]) -> None:
    """Take part in the machine for a moment: bury the dead, give back what they held, make the server's counts true.

    What is held is not disturbed. Takes a minute at most.

    Args:
        folder: The state folder, with a ledger.
        settings: Of this machine.
        url: The Prefect API's address, or `None` where no server takes part.
        mirrors: Other ledgers' mirrors; what former ledgers of this machine have left on them is taken off.

    Raises:
        SlotsError: what was done until then stays done.
    """
    from prefect_slots.limits.gateway import Gateway

    session = Session(folder, settings)  # reaps the dead
    try:
        if url is not None:
            await session.use_server(url)
            gateway = await Gateway.open(session.ledger.id, url=url)
            try:
                await _until_nothing_is_left_to_do(session.ledger, gateway)
                await _take_off_what_former_ledgers_left(gateway, mirrors)
            finally:
                await gateway.close()
    finally:
        await session.close()


async def _until_nothing_is_left_to_do(ledger: Ledger, gateway: Gateway) -> None:
    began = clock.boot_clock()
    quiet = 0
    # A repair that gives back stray leases leaves the counts to the next one.
    while quiet < 2 and clock.boot_clock() < began + _LONGEST_SECONDS:
        repaired = await reconcile(ledger, gateway, answering_since=began)
        moving = ledger.read(lambda tx: leases.in_states(tx, *_ON_ITS_WAY))
        quiet = 0 if repaired or moving else quiet + 1
        await asyncio.sleep(clock.around(_PAUSE_SECONDS))


async def _take_off_what_former_ledgers_left(gateway: Gateway, mirrors: Iterable[MirrorFacts]) -> None:
    from prefect_slots.limits.gateway import Gateway

    for mirror in mirrors:
        parts = split_mirror(mirror.name)
        if parts is None or not mirror.former:
            continue
        limit, ledger = parts
        theirs = Gateway(gateway.server, ledger)
        counted = await theirs.read(mirror.name)
        if counted is not None and counted.active_slots > 0 and not await theirs.holders(limit):
            await theirs.subtract(limit, counted.active_slots)

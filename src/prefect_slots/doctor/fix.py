"""Repair at once: dead owners are reaped, and slots without a holder taken off the server's counts."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

from prefect_slots.acquire.session import Session
from prefect_slots.doctor.facts import MirrorFacts
from prefect_slots.leases.reconcile import UNSETTLED, reconcile
from prefect_slots.ledger import leases, store
from prefect_slots.limits.gateway import Gateway
from prefect_slots.limits.naming import split_mirror
from prefect_slots.settings import Settings
from prefect_slots.system import clock

# Longer than a lost answer (15 s) or a lapsed lease (35 s) takes to settle.
_LONGEST_SECONDS = 60.0
# Each round asks the server about every limit.
_PAUSE_SECONDS = 0.3


async def mend(folder: Path, settings: Settings, url: str | None, mirrors: Iterable[MirrorFacts]) -> None:
    """Take part in the machine for a moment: reap dead owners, release their leases, repair the server's counts.

    No holder is disturbed. Takes a minute at most.

    Args:
        folder: State folder with a ledger.
        settings: Settings of this machine.
        url: Address of the Prefect API, or `None` without a server.
        mirrors: Mirrors of other ledgers; slots that former ledgers of this machine left on them are taken off.

    Raises:
        SlotsError: changes made until then stay.
    """
    session = Session(folder, settings)  # reaps the dead
    try:
        if url is not None:
            # Its leader and releaser give back the leases of the dead meanwhile.
            await session.use_server(url)
            gateway = await Gateway.open(session.ledger.id, url=url)
            try:
                await _repair_until_quiet(session.ledger, gateway)
                await _clear_former_mirrors(gateway, mirrors)
            finally:
                await gateway.close()
    finally:
        await session.close()


async def _repair_until_quiet(ledger: store.Ledger, gateway: Gateway) -> None:
    began = clock.boot_clock()
    quiet = 0
    # Two quiet rounds: a repair that gives back stray leases leaves the counts to the next one.
    while quiet < 2 and clock.boot_clock() < began + _LONGEST_SECONDS:
        repaired = await reconcile(ledger, gateway, answering_since=began)
        moving = ledger.read(lambda tx: leases.in_states(tx, *UNSETTLED))
        quiet = 0 if repaired or moving else quiet + 1
        await asyncio.sleep(clock.around(_PAUSE_SECONDS))


async def _clear_former_mirrors(gateway: Gateway, mirrors: Iterable[MirrorFacts]) -> None:
    for mirror in mirrors:
        parts = split_mirror(mirror.name)
        if parts is None or not mirror.former:
            continue
        limit, ledger = parts
        theirs = Gateway(gateway.server, ledger)
        counted = await theirs.read(mirror.name)
        # Read again: since the examination its holders may have come back.
        if counted is not None and counted.active_slots > 0 and not await theirs.holders(limit):
            await theirs.subtract(limit, counted.active_slots)

"""The session of this process with one Prefect server: leases for its grants, and its candidacy as leader."""

import asyncio
import logging
import socket
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Self

from prefect_slots.errors import ServerUnreachable, SlotsError
from prefect_slots.leases import acquire, foreign, leader, release
from prefect_slots.leases.renew import Renewal
from prefect_slots.ledger import election, leases, registry, store
from prefect_slots.limits import client, events
from prefect_slots.limits.claim import read_claims
from prefect_slots.limits.gateway import Gateway
from prefect_slots.model import book, finding
from prefect_slots.settings import Settings
from prefect_slots.system import clock
from prefect_slots.usage.foreign import Fleet

# Half of the time that all of the engine's end may take; the next process releases the rest.
_EXIT_SECONDS = 5.0
# A ticket steps aside so often before it may keep its cells and wait: with cells kept from the first refusal on, GPUs
# were at work 49 % of the time; with tickets that step aside, 75 to 100 %.
MAX_FAIR_RETRIES = 10
_PESSIMIST = "pessimist"
# Uneven, so that two machines that wait for the same seats do not ask in step.
_INSISTING_PAUSE_SECONDS = (0.1, 0.4)
# Machines join a fleet by hand, so their host names change rarely.
_HOSTS_SECONDS = 600.0
_log = logging.getLogger("prefect_slots")


class ServerSession:
    """One process at one server; made by `ServerSession.open`.

    Attributes:
        url: Address of the Prefect API.
        look: The leader's looks at limits that people may have changed.
        sweep: Starts releasing the leases that are this process's to release.
    """

    def __init__(self, ledger: store.Ledger, gateway: Gateway, settings: Settings, url: str) -> None:
        self.url = url
        self._ledger = ledger
        self._gateway = gateway
        self._when_away = settings.when_server_is_away
        self._insisting: str | None = None
        self._hosts_known: frozenset[str] = frozenset()
        self._hosts_at = -_HOSTS_SECONDS
        self._announcer = events.Announcer(gateway.server)
        self._releaser = release.Releaser(ledger, gateway, self._announcer)
        self._acquirer = acquire.Acquirer(ledger, gateway, self._releaser, self._announcer)
        self._leader = leader.Leader(
            ledger, gateway, Renewal(ledger, gateway, self._acquirer), url, refresh_seconds=settings.refresh_seconds
        )
        self.look = self._leader.look
        self.sweep = self.look.sweep = self._releaser.sweep

    @classmethod
    async def open(cls, ledger: store.Ledger, registered: registry.Known, settings: Settings, url: str) -> Self:
        """Open a session in which this process's grants occupy limits. Sends nothing yet."""
        database = ledger.read(lambda tx: tx.meta("database"))
        gateway = await Gateway.open(ledger.id, url=url, database=client.known_database(database))
        ledger.plan = lambda tx, grant: acquire.calls_of(grant.holdings, registered(tx))
        ledger.transact(lambda tx: tx.enrol_at_server())
        return cls(ledger, gateway, settings, url)

    async def occupy(
        self,
        grant: book.Grant,
        registered: registry.Registered,
        there: Collection[leases.LeaseRow],
        until: float | None,
    ) -> bool:
        """Occupy the limits of a grant, as far as no lease is `there` for them.

        Returns:
            True if the grant may be used. If not, its ticket has stepped aside, and its leases are being released.

        Raises:
            LimitMissing, ServerRefused: trying again will not help.
            ServerUnreachable: where `when_server_is_away` says so, or if this machine never registered there.
        """
        wanted = acquire.calls_of(grant.holdings, registered)
        refusal = await self._acquirer.occupy(grant.id, wanted, there)
        if refusal is not None and self._may_insist(grant.id, refusal):
            refusal = await self._insist(grant.id, wanted, until)
        if refusal is None:
            return True
        # A seat of the fleet is never used on the strength of a lost call: another machine may hold it.
        if refusal.cause in (acquire.Cause.AWAY, acquire.Cause.UNKNOWN) and self._may_go_on_without(wanted):
            self._acquirer.go_without(grant.id)
            return True
        await self._step_aside(grant, refusal)
        return False

    def _may_insist(self, grant: str, refusal: acquire.Refusal) -> bool:
        """Return True if a grant may keep its cells while it waits for seats: it was sent back often enough.

        Seats that come free when the cells are taken, and cells when the seats are, could keep it waiting for ever. One
        per machine may: with more, GPUs would lie idle, and two machines could wait for each other.
        """
        if refusal.cause is not acquire.Cause.FULL or not refusal.call.fleet or self._insisting is not None:
            return False
        if self._ledger.read(lambda tx: leases.refusals(tx, grant)) < MAX_FAIR_RETRIES:
            return False
        return self._ledger.transact(lambda tx: election.take(tx, _PESSIMIST, clock.boot_clock()))

    async def _insist(self, grant: str, wanted: tuple[leases.Call, ...], until: float | None) -> acquire.Refusal | None:
        self._insisting = grant
        try:
            while True:
                await asyncio.sleep(clock.between(*_INSISTING_PAUSE_SECONDS))
                still = self._ledger.transact(lambda tx: election.take(tx, _PESSIMIST, clock.boot_clock()))
                there = self._ledger.read(lambda tx: leases.of_grant(tx, grant))
                refusal = await self._acquirer.occupy(grant, wanted, there)
                given_up = not still or (until is not None and time.monotonic() > until)
                if refusal is None or refusal.cause is not acquire.Cause.FULL or given_up:
                    return refusal
        finally:
            self._insisting = None
            self._ledger.transact(lambda tx: election.leave(tx, _PESSIMIST), frees=True)

    def _may_go_on_without(self, wanted: tuple[leases.Call, ...]) -> bool:
        url = self._gateway.server.url
        if self._when_away == "fail" or not self._ledger.read(lambda tx: registry.is_claimed_at(tx, url)):
            raise ServerUnreachable(url=url, cause="it does not answer")
        return self._when_away == "continue" and not any(call.fleet for call in wanted)

    async def _step_aside(self, grant: book.Grant, refusal: acquire.Refusal) -> None:
        call = refusal.call
        self._ledger.transact(lambda tx: tx.apply(book.Returned(grant=grant.id, blocked_on=call.names[0])))
        self.sweep()
        # A ticket with alternatives must not wait for this limit alone, so its foreign use is noted.
        if refusal.cause is acquire.Cause.FULL and (not call.fleet or grant.shape.requirement.others):
            registered = self._ledger.read(registry.registered)
            resources = foreign.resources_behind(registered, call.names)
            with suppress(SlotsError):
                if await foreign.note_foreign_use(self._ledger, self._gateway, resources, shared=resources):
                    self._ledger.transact(lambda tx: tx.resume(grant.id))

    async def fleet(self, resources: Collection[str]) -> Fleet:
        """Return the use of these fleet licenses by others than this ledger, as far as the server tells."""
        try:
            counted = await foreign.read_fleet(self._ledger, self._gateway, resources)
            return Fleet(counted=counted, hosts=await self._hosts())
        except SlotsError as failed:
            _log.debug("asking what other machines hold: %s", failed)
            return Fleet(counted={})

    async def _hosts(self) -> frozenset[str]:
        if clock.boot_clock() - self._hosts_at > _HOSTS_SECONDS:
            found = await read_claims(self._gateway.server)
            claims = [standing.claim for standing in found if standing.claim is not None]
            hosts = {claim.host.partition(".")[0].casefold() for claim in claims if claim.ledger_id != self._ledger.id}
            self._hosts_known = frozenset(hosts - {socket.gethostname().partition(".")[0].casefold()})
            self._hosts_at = clock.boot_clock()
        return self._hosts_known

    def tell_stale(self, stale: finding.Stale) -> None:
        """Emit the event `prefect-slots.resource.stale`."""
        self._announcer.stale(stale)

    async def drain(self) -> None:
        """Release the leases that are this process's to release, within a few seconds."""
        await self._releaser.drain(_EXIT_SECONDS)

    async def close(self) -> None:
        """Stop, and close the connection to the server."""
        await self._leader.close()
        await self._releaser.close()
        await self._announcer.close()
        await self._gateway.close()

"""The leader of a machine at the server: renewal, foreign use, refused tickets and repair, by one process for all.

Every process that uses the server is a candidate; the ledger records the leader, and another takes over when it dies
or is stopped. Nothing here waits for a slot, and a slow answer to one job keeps none of the others waiting.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

from prefect_slots.errors import ServerUnreachable, SlotsError
from prefect_slots.leases import foreign, look, reconcile, renew
from prefect_slots.ledger import elected, leases, registry, store, transaction
from prefect_slots.limits import events, naming
from prefect_slots.limits.gateway import Gateway
from prefect_slots.model import Scope
from prefect_slots.system import clock

ROLE = "leader"


class Leader:
    """This process's candidacy, and the jobs of a leader.

    Attributes:
        nudge: Called to look for work at once.
        look: Its looks at limits that people may have changed.

    Args:
        refresh_seconds: Seconds between two comparisons of all counts; suspicious ones are compared at once.
    """

    def __init__(
        self, ledger: store.Ledger, gateway: Gateway, renewal: renew.Renewal, url: str, *, refresh_seconds: float
    ) -> None:
        self._ledger = ledger
        self._gateway = gateway
        self._renewal = renewal
        self.look = look.Look(ledger, gateway)
        renewal.forgotten = self._suspect
        self._releases = events.Releases(url, lambda: self._heeded)
        self._heeded: frozenset[str] = frozenset()
        self._listening: asyncio.Task[NoReturn] | None = None
        self._refresh_seconds = refresh_seconds
        self._answering_since: float | None = None
        self._suspicious = False
        self._compared_at = -refresh_seconds
        self._loop = elected.ElectedLoop(ledger, ROLE, self._jobs, idle_seconds=1.0, failed=self._note_error)
        self.nudge = self._loop.nudge
        self._task = asyncio.get_running_loop().create_task(self._loop.run())

    async def close(self) -> None:
        """Stop; another process goes on."""
        tasks: list[asyncio.Task[Any]] = [self._task]
        if self._listening is not None:
            tasks.append(self._listening)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _jobs(self) -> Mapping[str, elected.Job]:
        self._listen()
        return {
            "renew": self._renewal.renew,
            "back": self._renewal.back,
            "resume": partial(foreign.resume_refused, self._ledger, self._gateway),
            "compare": self._compare,
            "look": self.look.look,
        }

    def _note_error(self, error: SlotsError) -> None:
        # A server that was away has taken no lapsed lease back meanwhile, so repair counts its time anew.
        if isinstance(error, ServerUnreachable):
            self._answering_since = None

    def _listen(self) -> None:
        """Listen for releases by others that a ticket here may wait for, instead of waiting for the next look."""
        self._heeded = self._ledger.read(_shared)
        if self._heeded and self._listening is None:
            listening = self._releases.run(lambda _: self.nudge(), self.nudge)
            self._listening = asyncio.get_running_loop().create_task(listening)

    def _suspect(self) -> None:
        self._suspicious = True
        self.nudge()

    async def _compare(self) -> None:
        """Compare the server's counts with the ledger: all of them now and then, suspicious ones at once."""
        now = clock.boot_clock()
        # The first comparison after an outage is due at once: a restarted server may have forgotten its leases.
        due = now - self._compared_at >= self._refresh_seconds or self._answering_since is None
        used_by_others = self._ledger.read(foreign.watched)
        mending = self._suspicious or self._ledger.read(leases.is_mend_due)
        if not (due or used_by_others or mending):
            return
        resources = set(self._ledger.read(registry.registered).names) if due else used_by_others
        await foreign.note_foreign_use(self._ledger, self._gateway, resources)
        answering_since = self._answering_since = self._answering_since or now
        if due:
            self._compared_at = now
            mending = mending or await reconcile.is_suspicious(self._ledger, self._gateway)
        if mending:
            # Before the repair, not after it: a lease that is missed meanwhile must make another one.
            self._suspicious = False
            await reconcile.reconcile(self._ledger, self._gateway, answering_since=answering_since)


def _shared(tx: transaction.Transaction) -> frozenset[str]:
    """Return the limits that others use too: the fleet's, and this machine's own where somebody does."""
    registered = registry.registered(tx)
    foreign = bool(registry.counted(tx))
    specs = naming.specs(registered.machine, registered.stocks) if registered.machine else ()
    return frozenset(spec.name for spec in specs if foreign or spec.scope is Scope.FLEET)

"""Comparison of the server's limits with this machine's resources and leases; changes nothing."""

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from prefect_slots.acquire.registration import cards, own_stocks
from prefect_slots.detect.survey import Survey
from prefect_slots.doctor.facts import LimitFacts, MirrorFacts
from prefect_slots.errors import SlotsError
from prefect_slots.leases.reconcile import held, snapshot
from prefect_slots.ledger import changed, registry, store
from prefect_slots.limits import client, gateway, naming, outcome, plan
from prefect_slots.limits.claim import Claim
from prefect_slots.limits.history import last_change
from prefect_slots.limits.registration import read_all, register
from prefect_slots.system import clock

# Grants come and go during a comparison, so a difference counts only if each round shows it. Five rounds take a second
# and a half, longer than a call to the server.
_ROUNDS = 5
_PAUSE_SECONDS = 0.3


@dataclass(frozen=True)
class Comparison:
    """A registered machine to be compared with its server.

    Attributes:
        claim: Claim of the machine's name by this ledger.
        declared_in: The configuration file that the survey kept to.
    """

    server: client.Server
    ledger: store.Ledger
    machine: str
    seen: Survey
    claim: Claim | None
    declared_in: str

    async def run(self) -> tuple[tuple[LimitFacts, ...], tuple[MirrorFacts, ...]]:
        """Return this machine's limits, and other ledgers' mirrors of them.

        Raises:
            ServerUnreachable, ServerRefused: if the server does not take part.
        """
        entries = await self._entries()
        limits, existing = await self._limits(entries)
        # A healthy machine is answered at once, without the rounds.
        for _ in range(_ROUNDS - 1):
            if not any(limit.drifts for limit in limits):
                break
            await asyncio.sleep(clock.around(_PAUSE_SECONDS))
            limits, existing = await self._limits(entries)
        return limits, await self._mirrors({entry.name for entry in entries}, existing)

    async def _entries(self) -> tuple[plan.Entry, ...]:
        # Both are only rehearsed: an examination changes neither ledger nor server.
        registered = self.ledger.rehearse(lambda tx: registry.register(tx, self.seen.inventory))
        report = await register(
            self.server,
            machine=self.machine,
            ledger_id=self.ledger.id,
            host=socket.gethostname(),
            stocks=own_stocks(registered, self.seen, self.declared_in),
            cards=cards(registered),
            boot=clock.boot_id(),
            dry_run=True,
        )
        return report.entries

    async def _limits(
        self, entries: tuple[plan.Entry, ...]
    ) -> tuple[tuple[LimitFacts, ...], dict[str, outcome.ExistingLimit]]:
        # Read before and after the server: a slot that changes hands meanwhile is counted at most, not at least.
        before = self.ledger.read(snapshot)
        existing = await read_all(self.server)
        after = self.ledger.read(snapshot)
        found: list[LimitFacts] = []
        for entry in entries:
            if naming.split_mirror(entry.name) is None:
                least, most = held(entry.name, before, after)
                found.append(
                    _facts(await self._dated(entry), least=least, most=most, **self._counts(entry.name, existing))
                )
            # A mirror is this ledger's own, unless somebody has made a limit of its name.
            elif entry.action is plan.Action.CONFLICT:
                found.append(_facts(entry))
        return tuple(found), existing

    async def _dated(self, entry: plan.Entry) -> plan.Entry:
        """Return an entry; that of a limit that a person changed with time and author, as far as the server tells."""
        if entry.action not in (plan.Action.LOWERED, plan.Action.SWITCHED_OFF):
            return entry
        active = entry.action is plan.Action.LOWERED
        with suppress(SlotsError):
            last = await last_change(self.server, entry.name, entry.old or 0, active=active)
            problem, _, remedy = entry.problem.partition("; ")
            when = changed.told(*last) if last else " (the server does not tell when and by whom)"
            return replace(entry, problem=f"{problem}{when}; {remedy}")
        return entry

    def _counts(self, name: str, existing: dict[str, outcome.ExistingLimit]) -> dict[str, Any]:
        ours = self.ledger.id
        limit, mirror = existing.get(name), existing.get(naming.mirror_of(name, ours))
        mirrors = [(naming.split_mirror(each), counted.active_slots) for each, counted in existing.items()]
        return {
            "active": limit.active_slots if limit else 0,
            "mirror": mirror.active_slots if mirror else None,
            "others": sum(slots for parts, slots in mirrors if parts and parts[0] == name and parts[1] != ours),
        }

    async def _mirrors(self, names: set[str], existing: dict[str, outcome.ExistingLimit]) -> tuple[MirrorFacts, ...]:
        former = self.claim.former if self.claim else ()
        found: list[MirrorFacts] = []
        for name, limit in sorted(existing.items()):
            parts = naming.split_mirror(name)
            if parts is None or parts[1] == self.ledger.id or parts[0] not in names:
                continue
            # Mirrors without slots are many and have no holders: each question would be a request in vain.
            holders = await gateway.Gateway(self.server, parts[1]).holders(parts[0]) if limit.active_slots else ()
            mirror = MirrorFacts(name=name, active=limit.active_slots, holders=len(holders), former=parts[1] in former)
            found.append(mirror)
        return tuple(found)


def _facts(entry: plan.Entry, **counts: Any) -> LimitFacts:
    return LimitFacts(
        name=entry.name, action=entry.action.value, old=entry.old, new=entry.new, problem=entry.problem, **counts
    )

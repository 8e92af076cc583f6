"""Rivals: other ledgers that claim this machine's name or GPUs, their signs of life, and machines that are gone.

A worker writes its claim again at each refresh, and every grant changes a mirror, so that a ledger in use is never
silent for long. A claim is taken over from a silent ledger only. Its mirrors are deleted then: a ledger that was only
asleep gets no slot any more, registers anew, and is told.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prefect_slots.errors import GpuTaken, NameTaken
from prefect_slots.limits.claim import Claim, Standing, variable_name
from prefect_slots.limits.client import Server
from prefect_slots.limits.gateway import Gateway
from prefect_slots.limits.outcome import ExistingLimit
from prefect_slots.limits.plan import mirrors_in

# Two heartbeats may be lost while a server restarts.
_MISSED_HEARTBEATS = 3
# A worker that refreshes each second may be slower than that under load.
_LEAST_HEARTBEAT_SECONDS = 10.0
# A ledger without a worker writes no heartbeat; it is given the time of a worker with the default settings.
_USUAL_HEARTBEAT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Rival:
    """Another ledger's claim on this machine's name or on one of its GPUs.

    Attributes:
        gpus: The GPUs that both claim; empty if it is about the name.
        seconds_left: Seconds until its silence counts as its end; 0 if it does, infinite if it never will.
    """

    standing: Standing
    gpus: tuple[str, ...]
    seconds_left: float

    def error(self, ours: Claim) -> NameTaken | GpuTaken:
        """Return the error of a registration that must not take over."""
        claim = self.standing.claim
        theirs, host = (claim.ledger_id, claim.host) if claim else ("unreadable", "unknown")
        left = None if math.isinf(self.seconds_left) else round(self.seconds_left)
        if claim is None or not self.gpus:
            return NameTaken(machine=ours.machine, theirs=theirs, ours=ours.ledger_id, host=host, seconds_left=left)
        return GpuTaken(gpus=self.gpus, machine=claim.machine, theirs=theirs, host=host, seconds_left=left)


def silence(standing: Standing, existing: Mapping[str, ExistingLimit]) -> float:
    """Return the seconds since the last sign of life of a claim's ledger: a heartbeat, or a change of its mirrors."""
    ledger = standing.claim.ledger_id if standing.claim else ""
    changes = [existing[name].changed_at for name, _, of in mirrors_in(existing) if of == ledger]
    return standing.read_at - max(standing.written_at, *changes, 0.0)


async def holds(server: Server, ledger: str, existing: Mapping[str, ExistingLimit]) -> bool:
    """Return whether a ledger has a live lease; slots that are counted without one are left from a lost lease."""
    for name, limit, of in mirrors_in(existing):
        if of == ledger and existing[name].active_slots and await Gateway(server, ledger).holders(limit):
            return True
    return False


async def find_rival(
    server: Server, ours: Claim, standings: Iterable[Standing], existing: Mapping[str, ExistingLimit]
) -> Rival | None:
    """Return the first rival of a machine that is to be registered by `ours`."""
    standings = tuple(standings)
    own = next((each for each in standings if each.variable == variable_name(ours.machine)), None)
    if own is not None and (own.claim is None or own.claim.ledger_id != ours.ledger_id):
        return Rival(standing=own, gpus=(), seconds_left=await _name_left(server, ours, own, existing))
    for other in standings:
        if other is own or other.claim is None or other.claim.ledger_id == ours.ledger_id:
            continue
        gpus = other.claim.shares(ours.cards.values(), ours.boot)
        # Of two that registered a GPU at once, the later one yields.
        if own is not None and own.claim is not None and gpus and own.claim.shares(gpus, ours.boot) == gpus:
            gpus = () if (own.created_at, own.variable) < (other.created_at, other.variable) else gpus
        if gpus:
            left = max(0.0, _patience(other.claim) - silence(other, existing))
            if left == 0 and await holds(server, other.claim.ledger_id, existing):
                left = math.inf
            return Rival(standing=other, gpus=gpus, seconds_left=left)
    return None


def _patience(claim: Claim) -> float:
    return _MISSED_HEARTBEATS * max(claim.heartbeat or _USUAL_HEARTBEAT_SECONDS, _LEAST_HEARTBEAT_SECONDS)


async def _name_left(server: Server, ours: Claim, standing: Standing, existing: Mapping[str, ExistingLimit]) -> float:
    claim = standing.claim
    if claim is None:
        return math.inf
    left = max(0.0, _patience(claim) - silence(standing, existing))
    if claim.heartbeat:
        return left
    # No worker has kept this claim, so that its silence proves less: it must be this machine's own old one.
    ours_once = claim.host == ours.host or bool(claim.shares(ours.cards.values(), ours.boot))
    if not ours_once or (left == 0 and await holds(server, claim.ledger_id, existing)):
        return math.inf
    return left

"""Resources from the reports of license servers: seats of the fleet or of this machine. Pure."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date

from prefect_slots.detect.detector import Answer
from prefect_slots.detect.licenses.report import Counted, Feature, Reading, Unknown, Unlimited
from prefect_slots.errors import nearest
from prefect_slots.model.amount import MAX_AMOUNT, SEATS
from prefect_slots.model.declaration import LicenseServer
from prefect_slots.model.finding import Finding, Severity
from prefect_slots.model.resource import Cell, Resource, Scope, license_resource

# Two weeks leave time to order a renewal before tasks fail.
EXPIRY_WARNING_DAYS = 14

# The address of a network interface without its separators, as most locks spell it.
_ADDRESS = re.compile(r"[0-9a-f]{12}")
_WORDS = re.compile(r"[0-9a-z._:-]+")


@dataclass(frozen=True, kw_only=True)
class Here:
    """The identities of this machine in the locks of licenses: host names, network addresses, in lower case."""

    identities: frozenset[str] = field(default_factory=frozenset[str])

    def is_meant_by(self, lock: str) -> bool:
        """Return true if a lock in a vendor's spelling (`HOSTNAME=gpu-1`, `0019d2ab34cd`) names this machine."""
        words = _WORDS.findall(lock.lower())
        addresses = {bare for bare in map(_plain, words) if _ADDRESS.fullmatch(bare)}
        return not self.identities.isdisjoint({*words, *addresses, *(word.partition(".")[0] for word in words)})


def identities(names: Iterable[str], addresses: Iterable[str]) -> Here:
    """Return the identities of the machine with these host names and network addresses."""
    hosts = {name.lower() for name in names if name}
    # Every machine has the loopback's address of zeros, so that it tells none apart.
    own = {_plain(address.lower()) for address in addresses} - {"000000000000", ""}
    return Here(identities=frozenset(hosts | {name.partition(".")[0] for name in hosts} | own))


def _plain(address: str) -> str:
    return address.replace(":", "").replace("-", "")


def interpret_seats(tables: Sequence[tuple[LicenseServer, Reading]], here: Here, today: date) -> Answer:
    """Return the seats of the configured features.

    Args:
        tables: Each `[license.<name>]` that names a server, with that server's reading.
        here: The identities of this machine.
        today: For licenses that end soon.
    """
    answers = [
        _Seats(table, name, feature, here, today).judge(reading)
        for table, reading in tables
        for name, feature in table.features
    ]
    # Several tables may share one server's answer.
    told = dict.fromkeys(finding for _, reading in tables for finding in reading.findings)
    return Answer(
        resources=tuple(resource for answer in answers for resource in answer.resources),
        findings=(*told, *(finding for answer in answers for finding in answer.findings)),
        unknown=frozenset(name for answer in answers for name in answer.unknown),
    )


class _Seats:
    """The judgement of one feature."""

    def __init__(self, table: LicenseServer, name: str, feature: str, here: Here, today: date) -> None:
        self._table = table
        self._name = license_resource(name)
        self._feature = feature
        self._here = here
        self._today = today

    def judge(self, reading: Reading) -> Answer:
        feature = reading.find(self._feature)
        if reading.failure is not None:
            return self._unknown(f"the licence server {self._table.server} {_as_predicate(reading.failure)}")
        if feature is None:
            return self._unknown(f"the licence server {self._table.server} tells of no '{self._feature}'", reading)
        if isinstance(feature.usage, Unknown):
            return self._unknown(f"the licence server {self._table.server} does not count it: {feature.usage.reason}")
        if isinstance(feature.usage, Unlimited):
            # Without a resource every task that asks for it would be refused for good.
            scope = self._table.scope or self._scope(feature.locks) or Scope.FLEET
            remark = self._finding("the server does not count it, so nobody waits for it", severity="info")
            return Answer(
                resources=(self._resource(MAX_AMOUNT, scope),), findings=(remark, *self._ending(feature.usage.expires))
            )
        return self._counted(feature, feature.usage)

    def _counted(self, feature: Feature, usage: Counted) -> Answer:
        scope = self._table.scope or self._scope(feature.locks)
        if scope is None:
            remedy = 'if this machine is meant, write scope = "worker"; if the seats float, scope = "fleet"'
            locked = self._finding("its licences are locked, and not all to this machine", remedy)
            return Answer(unknown=frozenset({self._name}), findings=(locked,))
        kept = self._table.headroom
        if usage.total <= kept:
            words, remedy = "the server has no seat of it", "renew the licence, or see why the server does not have it"
            if kept:
                words, remedy = f"headroom {kept} leaves nothing of {usage.total} seats", "lower headroom"
            return Answer(findings=(self._finding(words, remedy, severity="error"),))
        resource = self._resource(min(usage.total, MAX_AMOUNT) - kept, scope)
        findings = (self._told(usage), *self._locked(feature.locks), *self._ending(usage.expires))
        return Answer(resources=(resource,), findings=findings)

    def _resource(self, seats: int, scope: Scope) -> Resource:
        origin = f"{self._table.vendor} {self._table.server}"
        return Resource(name=self._name, unit=SEATS, cells=(Cell(key="0", capacity=seats),), scope=scope, origin=origin)

    def _scope(self, locks: tuple[str, ...] | None) -> Scope | None:
        """Return the scope of the seats, `None` if the locks do not tell."""
        if not locks:
            return Scope.FLEET
        return Scope.WORKER if all(self._here.is_meant_by(lock) for lock in locks) else None

    def _locked(self, locks: tuple[str, ...] | None) -> Iterator[Finding]:
        if locks and self._table.scope is None:
            # Without it the seats would be the fleet's again after a start at which nobody uses them.
            yield self._finding(
                "its licences are locked to this machine, which some servers tell only while they are used",
                'write scope = "worker"',
            )

    def _told(self, usage: Counted) -> Finding:
        reserved = f", {usage.reserved} of them reserved" if usage.reserved else ""
        queued = f"; {usage.queued} are queued for" if usage.queued else ""
        kept = f"; {self._table.headroom} kept free as headroom" if self._table.headroom else ""
        words = f"the server has {usage.total} seats, {usage.used} in use{reserved}{queued}{kept}"
        return self._finding(words, severity="info")

    def _ending(self, expires: date | None) -> Iterator[Finding]:
        days = EXPIRY_WARNING_DAYS + 1 if expires is None else (expires - self._today).days
        if days < 0:
            yield self._finding(f"a licence of it ended on {expires}", "renew it")
        elif days <= EXPIRY_WARNING_DAYS:
            yield self._finding(f"a licence of it ends on {expires}, in {days} days", "renew it")

    def _unknown(self, words: str, reading: Reading | None = None) -> Answer:
        remedy = "what was registered before stays; see why the server does not tell"
        if reading is not None:
            names = tuple(feature.name for feature in reading.features)
            remedy = f"correct feature; {nearest(self._feature, names)}" if names else "correct feature, or server"
        return Answer(unknown=frozenset({self._name}), findings=(self._finding(words, remedy, severity="error"),))

    def _finding(self, problem: str, remedy: str = "", *, severity: Severity = "warning") -> Finding:
        return Finding(subject=self._name, problem=problem, remedy=remedy, severity=severity)


def _as_predicate(failure: str) -> str:
    return failure if failure.startswith("did ") else f"cannot be asked: {failure}"

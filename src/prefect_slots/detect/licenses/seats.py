"""Resources from the reports of license servers: seats of the fleet or of this machine. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date

from prefect_slots.detect.detector import Answer
from prefect_slots.detect.licenses.here import Here
from prefect_slots.detect.licenses.report import Counted, Feature, Reading, Unknown, Unlimited
from prefect_slots.detect.licenses.reservations import Claim, Options, claim
from prefect_slots.errors import nearest
from prefect_slots.model.amount import MAX_AMOUNT, SEATS
from prefect_slots.model.declaration import LicenseServer
from prefect_slots.model.finding import Finding, Severity, printable
from prefect_slots.model.resource import Cell, Resource, Scope, license_resource

# Two weeks leave time to order a renewal before tasks fail.
EXPIRY_WARNING_DAYS = 14


def interpret_seats(
    tables: Sequence[tuple[LicenseServer, Reading]],
    here: Here,
    today: date,
    options: Mapping[str, Options] | None = None,
) -> Answer:
    """Return the seats of the configured features.

    Args:
        tables: Each `[license.<name>]` that names a server, with that server's reading.
        here: The identities of this machine.
        today: For licenses that end soon.
        options: The servers' options files by path.
    """
    files = options or {}
    answers = [
        _Seats(table, name, feature, here, today, files.get(table.options_file, Options())).judge(reading)
        for table, reading in tables
        for name, feature in table.features
    ]
    # Several tables may share one server's answer.
    told = dict.fromkeys(finding for _, reading in tables for finding in reading.findings)
    pools: dict[tuple[str, ...], list[Resource]] = {}
    for pool, answer in zip(_pools(tables), answers, strict=True):
        for resource in answer.resources:
            pools.setdefault(pool, []).append(resource)
    shared = [sorted(members, key=lambda each: each.name) for members in pools.values()]
    return Answer(
        # The first by name stands for its pool, on every machine with the same configuration.
        resources=tuple(replace(first, also=tuple(each.name for each in others)) for first, *others in shared),
        findings=(
            *told,
            *(finding for answer in answers for finding in answer.findings),
            *(_same_seats(first, each) for first, *others in shared for each in others),
        ),
        unknown=frozenset(name for answer in answers for name in answer.unknown),
    )


def _pools(tables: Sequence[tuple[LicenseServer, Reading]]) -> Iterator[tuple[str, ...]]:
    """Yield the identity of the pool of seats that each configured name draws on."""
    for table, reading in tables:
        for name, wanted in table.features:
            feature = reading.find(wanted)
            seats = name if feature is None else feature.pool or feature.name
            yield table.vendor, table.server.casefold(), *table.command, "", seats


def _same_seats(first: Resource, other: Resource) -> Finding:
    problem = f"it draws on the same seats as {first.name}, and is counted there"
    return Finding(subject=other.name, problem=problem, severity="info")


class _Seats:
    """The judgement of one feature."""

    def __init__(
        self, table: LicenseServer, name: str, feature: str, here: Here, today: date, options: Options
    ) -> None:
        self._table = table
        self._name = license_resource(name)
        self._feature = feature
        self._here = here
        self._today = today
        self._options = options

    def judge(self, reading: Reading) -> Answer:
        feature = reading.find(self._feature)
        if reading.failure is not None:
            return self._unknown(f"the licence server {self._table.server} {_as_predicate(reading.failure)}")
        if feature is None:
            return self._unknown(f"the licence server {self._table.server} tells of no '{self._feature}'", reading)
        if isinstance(feature.usage, Unknown):
            return self._unknown(f"the licence server {self._table.server} does not count it: {feature.usage.reason}")
        scope = self._table.scope or self._scope(feature.locks)
        if scope is None:
            remedy = 'if this machine is meant, write scope = "worker"; if the seats float, scope = "fleet"'
            locked = self._finding("its licences are locked, and not all to this machine", remedy)
            return Answer(unknown=frozenset({self._name}), findings=(locked,))
        if isinstance(feature.usage, Unlimited):
            # Without a resource every task that asks for it would be refused for good.
            remark = self._finding("the server does not count it, so nobody waits for it", severity="info")
            return Answer(
                resources=(self._resource(MAX_AMOUNT, scope),), findings=(remark, *self._ending(feature.usage.expires))
            )
        return self._counted(feature, feature.usage, scope)

    def _counted(self, feature: Feature, usage: Counted, scope: Scope) -> Answer:
        kept = self._table.headroom
        if usage.total <= kept:
            words, remedy = "the server has no seat of it", "renew the licence, or see why the server does not have it"
            if kept:
                words, remedy = f"headroom {kept} leaves nothing of {usage.total} seats", "lower headroom"
            nothing = self._finding(words, remedy, severity="error")
            return Answer(findings=(nothing, *self._ending(usage.expires)))
        resource = self._resource(min(usage.total, MAX_AMOUNT) - kept, scope)
        part = claim(feature, self._table, self._here, self._options)
        findings = (
            self._told(usage, part),
            *self._locked(feature.locks),
            *self._ending(usage.expires),
            *self._unsettled(part, usage),
        )
        return Answer(resources=(resource,), findings=findings)

    def _resource(self, seats: int, scope: Scope) -> Resource:
        origin = f"{self._table.vendor} {self._table.server}"
        return Resource(name=self._name, unit=SEATS, cells=(Cell(key="0", capacity=seats),), scope=scope, origin=origin)

    def _scope(self, locks: tuple[str, ...] | None) -> Scope | None:
        """Return the scope of the seats, `None` if the locks do not tell."""
        # A lock to our user lets us use the seats on any machine.
        bound = [lock for lock in locks or () if not self._here.is_user_of(lock)]
        if not bound:
            return Scope.FLEET
        return Scope.WORKER if all(self._here.is_meant_by(lock) for lock in bound) else None

    def _locked(self, locks: tuple[str, ...] | None) -> Iterator[Finding]:
        if locks and self._table.scope is None:
            # Some servers tell it only while the seats are used, so that it may be news at any look.
            yield self._finding(
                "its licences are locked to this machine or its user", 'write scope = "worker"', severity="info"
            )

    def _unsettled(self, part: Claim, usage: Counted) -> Iterator[Finding]:
        if self._options.failure is not None:
            problem = f"the options file {self._table.options_file} cannot be read: {self._options.failure}"
            yield self._finding(problem, "correct options_file, or let this user read it")
        # Where others are free nobody waits for these; a server with reservations is no reason for alarm.
        severity: Severity = "warning" if usage.used >= usage.total else "info"
        if part.groups:
            names = ", ".join(part.groups)
            yield self._finding(
                f"{part.unsettled} of its seats are reserved for {printable(names)}, and count as others'",
                "if that names this machine or its user, write it into reserved_for, or the path of the server's "
                "options file into options_file; if not, write reserved_for = []",
                severity=severity,
            )
        elif part.unsettled:
            yield self._finding(
                f"{part.unsettled} of its seats are reserved, the server does not say for whom: they count as others'",
                "write into reserved_here how many of them are this machine's, 0 for none",
                severity=severity,
            )

    def _told(self, usage: Counted, part: Claim) -> Finding:
        ours = f" ({part.ours} for us)" if part.ours else ""
        reserved = f", {usage.reserved} of them reserved{ours}" if usage.reserved else ""
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

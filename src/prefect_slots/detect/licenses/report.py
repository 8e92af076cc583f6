"""Reports of license servers: features that are counted, unlimited or unknown.

Unknown never becomes zero. User names are personal data: checkouts are kept only where a caller asked for them, and
nothing here shows them in its `repr` or in a finding.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import chain
from typing import TypeAlias

from prefect_slots.model import Finding


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A feature with a number of seats.

    Attributes:
        total: Seats that the server may hand out.
        used: Seats that nobody else can have now: checked out or reserved; queued requests are not among them.
        reserved: The part of `used` that is set aside for somebody.
        queued: Seats that are waited for.
        expires: The first day on which a license of it ends; `None` where none does or the server does not tell.
    """

    total: int
    used: int
    reserved: int = 0
    queued: int = 0
    expires: date | None = None


@dataclass(frozen=True, kw_only=True)
class Unlimited:
    """A feature that the server hands out without counting."""

    expires: date | None = None


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """A feature of which the server could not tell how many seats it has."""

    reason: str


Usage: TypeAlias = Counted | Unlimited | Unknown


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """Seats that somebody holds.

    Where the vendor prints names with spaces, user, host and display cannot be told apart for certain; `belongs_to` is
    right nevertheless.

    Attributes:
        lingering: Seconds for which the seats stay taken after they are given back: a borrowed license.
    """

    user: str = field(repr=False)
    host: str = field(repr=False)
    display: str = field(default="", repr=False)
    count: int = 1
    lingering: int = 0

    def belongs_to(self, user: str, host: str) -> bool:
        """Return true if `user` on `host` holds it; a host is the same with and without its domain."""
        holder = f"{self.user} {self.host} {self.display}".casefold()
        sought = f"{user} {host.partition('.')[0]}".casefold()
        return holder.startswith(sought) and holder[len(sought) : len(sought) + 1] in ("", " ", ".")

    def is_on(self, hosts: frozenset[str]) -> bool:
        """Return true if a user on one of these hosts, in lower case and without a domain, holds it."""
        _, *words = f"{self.user} {self.host} {self.display}".casefold().split()
        return any(word.partition(".")[0] in hosts for word in words)


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """Seats that are set aside for a user, a host or a group of them.

    Attributes:
        kind: `USER`, `HOST`, `GROUP`, `HOST_GROUP` or another word of the vendor, in any case.
    """

    kind: str
    name: str = field(repr=False)
    count: int


@dataclass(frozen=True, kw_only=True)
class Feature:
    """The report of one feature.

    Attributes:
        locks: The locks of its licenses in the vendor's spelling; empty where one of them floats; `None` where
            the server does not tell, as some do only while a license is used.
        checkouts: The holders of seats; `None` unless asked for.
        reservations: The reservations of which the server names the beneficiary; some servers tell a number alone.
        pool: The identity of the pool of its seats, which other features may share; empty where that is not told.
        parts: The usages of which `usage` is the sum; empty where it is one.
    """

    name: str
    usage: Usage
    locks: tuple[str, ...] | None = None
    checkouts: tuple[Checkout, ...] | None = field(default=None, repr=False)
    reservations: tuple[Reservation, ...] = field(default=(), repr=False)
    pool: str = ""
    parts: tuple[Usage, ...] = field(default=(), repr=False, compare=False)

    def on(self, day: date) -> "Feature":
        """Return the feature without the licenses that have ended before `day`: a server may list them for years."""
        parts = self.parts or (self.usage,)
        current = [part for part in parts if not _ended(part, day)]
        if len(current) == len(parts):
            return self
        nothing = Counted(total=0, used=0, expires=earliest(map(_last_day, parts)))
        return replace(self, usage=combined(current) if current else nothing, parts=())


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The answer to one query of a server.

    Attributes:
        features: In the server's order; names are distinct.
        failure: The error, if the server reported nothing at all; else `None`.
        asked_at: Time of the query on the caller's clock, in seconds; `None` if it was not noted.
    """

    features: tuple[Feature, ...] = ()
    findings: tuple[Finding, ...] = ()
    failure: str | None = None
    asked_at: float | None = field(default=None, compare=False)

    def find(self, name: str) -> Feature | None:
        """Return the feature of that name, in any case of letters where that leaves one."""
        exact = [feature for feature in self.features if feature.name == name]
        alike = [feature for feature in self.features if feature.name.casefold() == name.casefold()]
        return exact[0] if exact else alike[0] if len(alike) == 1 else None

    def on(self, day: date) -> "Reading":
        """Return the reading without licenses that have ended before `day`."""
        return replace(self, features=tuple(feature.on(day) for feature in self.features))


def combined(usages: Iterable[Usage]) -> Usage:
    """Join the reports of several daemons, pools or licenses about one feature.

    A number that is missing makes the sum unknown; a counted license limits more than an unlimited one.
    """
    told = tuple(usages)
    unknown = [usage for usage in told if isinstance(usage, Unknown)]
    if unknown or not told:
        return unknown[0] if unknown else Unknown(reason="the server tells nothing of it")
    counted = [usage for usage in told if isinstance(usage, Counted)]
    if not counted:
        return Unlimited(expires=earliest(usage.expires for usage in told if isinstance(usage, Unlimited)))
    return Counted(
        total=sum(usage.total for usage in counted),
        used=sum(usage.used for usage in counted),
        reserved=sum(usage.reserved for usage in counted),
        queued=sum(usage.queued for usage in counted),
        expires=earliest(usage.expires for usage in counted),
    )


def _last_day(usage: Usage) -> date | None:
    return None if isinstance(usage, Unknown) else usage.expires


def _ended(usage: Usage, day: date) -> bool:
    last = _last_day(usage)
    return last is not None and last < day


def earliest(days: Iterable[date | None]) -> date | None:
    """Return the first of the days that are known."""
    return min((day for day in days if day is not None), default=None)


def merged(features: Iterable[Feature]) -> tuple[Feature, ...]:
    """Join features of one name, in the order in which each was named first."""
    groups: dict[str, list[Feature]] = {}
    for feature in features:
        groups.setdefault(feature.name, []).append(feature)
    return tuple(group[0] if len(group) == 1 else _joined(group) for group in groups.values())


def _joined(group: list[Feature]) -> Feature:
    held = [feature.checkouts for feature in group if feature.checkouts is not None]
    known = [feature.locks for feature in group if feature.locks is not None]
    # A floating license among locked ones unlocks the feature.
    locks = tuple(chain.from_iterable(known)) if all(known) else ()
    usages = tuple(feature.usage for feature in group)
    pools = {feature.pool for feature in group}
    return replace(
        group[0],
        usage=combined(usages),
        parts=usages,
        # Several pools of which some are shared are no pool together.
        reservations=tuple(chain.from_iterable(feature.reservations for feature in group)),
        pool=pools.pop() if len(pools) == 1 else "",
        locks=locks if known else None,
        checkouts=tuple(chain.from_iterable(held)) if held else None,
    )

"""What a licence server tells of its features: counted, unlimited or unknown, and what was odd.

Unknown never becomes zero. User names are personal data: checkouts are kept only where a caller asked for them, and
nothing here shows them in its `repr` or in a finding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import TypeAlias

from prefect_slots.model.finding import Finding


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A feature with a number of seats.

    Attributes:
        total: Seats that the server may hand out.
        used: Seats that nobody else can have now: checked out or reserved; who queues is not among them.
        reserved: The part of `used` that is set aside for somebody.
        queued: Seats that are waited for.
        expires: The first day on which a licence of it ends; `None` where none does or the server does not tell.
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
        lingering: Seconds for which the seats stay taken after they are given back: a borrowed licence.
    """

    user: str = field(repr=False)
    host: str = field(repr=False)
    display: str = field(default="", repr=False)
    count: int = 1
    lingering: int = 0

    def belongs_to(self, user: str, host: str) -> bool:
        """Tell whether `user` on `host` holds it; a host is the same with and without its domain."""
        holder = f"{self.user} {self.host} {self.display}".casefold()
        sought = f"{user} {host.partition('.')[0]}".casefold()
        return holder.startswith(sought) and holder[len(sought) : len(sought) + 1] in ("", " ", ".")

    def is_on(self, hosts: frozenset[str]) -> bool:
        """Tell whether somebody on one of these hosts, in lower case and without a domain, holds it."""
        _, *words = f"{self.user} {self.host} {self.display}".casefold().split()
        return any(word.partition(".")[0] in hosts for word in words)


@dataclass(frozen=True, kw_only=True)
class Feature:
    """What a server tells of one feature.

    Attributes:
        locks: What its licences are locked to, as the vendor spells it; empty where one of them floats; `None` where
            the server does not tell, as some do only while a licence is used.
        checkouts: Who holds seats; `None` unless asked for.
    """

    name: str
    usage: Usage
    locks: tuple[str, ...] | None = None
    checkouts: tuple[Checkout, ...] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one query of a server told.

    Attributes:
        features: In the server's order; names are distinct.
        failure: Why the server told nothing at all; `None` where it answered.
        asked_at: When it was asked, on the clock of whoever asked; `None` where nobody noted it.
    """

    features: tuple[Feature, ...] = ()
    findings: tuple[Finding, ...] = ()
    failure: str | None = None
    asked_at: float | None = field(default=None, compare=False)

    def find(self, name: str) -> Feature | None:
        """Return the feature of that name, in any case of letters where that leaves one."""
        exact = [feature for feature in self.features if feature.name == name]
        alike = [feature for feature in self.features if feature.name.casefold() == name.casefold()]
        if exact:
            return exact[0]
        return alike[0] if len(alike) == 1 else None


def combined(usages: Iterable[Usage]) -> Usage:
    """Join what several daemons, pools or licences say of one feature.

    A number that is missing makes the sum unknown; what is counted limits more than what is not.
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


def earliest(days: Iterable[date | None]) -> date | None:
    """Return the first of the days that are known."""
    return min((day for day in days if day is not None), default=None)

"""Reservations: the seats of a feature that its server sets aside, and which of them are this machine's.

A reservation is ours if it names this host, this process's user, or a group that does, by the server's options file or
by a person's word. FlexNet names the beneficiary; RLM and Sentinel RMS tell a number alone. Seats of which nothing
says that they are ours are others': a seat too few makes a task wait, a seat too many makes it fail.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prefect_slots.detect.licenses.here import Here
from prefect_slots.detect.licenses.report import Counted, Feature, Reservation
from prefect_slots.model import LicenseServer

# Options files name members of groups by these kinds.
_GROUPS = {"group": "user", "host_group": "host"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """A server's options file, as far as it is about reservations.

    Attributes:
        groups: Members by kind and name of the group, in lower case.
        reserved: Reservations by the feature's name in lower case.
        failure: Reason why the file could not be read, or `None`.
    """

    groups: Mapping[tuple[str, str], tuple[str, ...]] = field(
        default_factory=dict[tuple[str, str], tuple[str, ...]], repr=False
    )
    reserved: Mapping[str, tuple[Reservation, ...]] = field(
        default_factory=dict[str, tuple[Reservation, ...]], repr=False
    )
    failure: str | None = None


def parse_options(text: str) -> Options:
    """Read an options file of FlexNet or RLM; lines about other things are passed over."""
    groups: dict[tuple[str, str], tuple[str, ...]] = {}
    reserved: dict[str, tuple[Reservation, ...]] = {}
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        match line.partition("#")[0].replace('"', "").split():
            case [kind, name, *members] if kind.lower() in _GROUPS:
                key = kind.lower(), name.casefold()
                groups[key] = (*groups.get(key, ()), *members)
            case [word, count, feature, kind, name, *_] if word.lower() == "reserve" and count.isdecimal():
                # Version and other properties of the license follow the name: "cad:VERSION=2.0".
                key = feature.partition(":")[0].casefold()
                made = Reservation(kind=kind, name=name, count=int(count))
                reserved[key] = (*reserved.get(key, ()), made)
            case _:
                pass
    return Options(groups=groups, reserved=reserved)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """This machine's part of a feature's reservations.

    Attributes:
        ours: Seats that are set aside for us.
        unsettled: Seats of which nothing says whether they are ours; they count as others'.
        groups: Names in reservations that would settle some of these.
    """

    ours: int = 0
    unsettled: int = 0
    groups: tuple[str, ...] = ()


def claim(feature: Feature, table: LicenseServer, here: Here, options: Options) -> Claim:
    """Return our part of the reservations of a feature."""
    usage = feature.usage
    if not isinstance(usage, Counted) or not usage.reserved:
        return Claim()
    named = feature.reservations
    nameless = max(0, usage.reserved - sum(each.count for each in named))
    if nameless and (written := options.reserved.get(feature.name.casefold())):
        # Others' first: the file may be newer than the server's count.
        others_first = sorted(written, key=lambda each: _is_ours(each, table, here, options) is True)
        named = (*named, *_within(others_first, nameless))
        nameless -= min(nameless, sum(each.count for each in written))
    ours, unsettled, groups = min(nameless, table.reserved_here or 0), 0, dict[str, None]()
    if table.reserved_here is None:
        unsettled += nameless
    for each in named:
        mine = _is_ours(each, table, here, options)
        if mine:
            ours += each.count
        elif mine is None:
            unsettled += each.count
            groups[each.name] = None
    return Claim(ours=ours, unsettled=unsettled, groups=tuple(groups))


def _within(reservations: Iterable[Reservation], seats: int) -> Iterator[Reservation]:
    """Yield reservations of that many seats in all."""
    for each in reservations:
        taken = min(seats, each.count)
        seats -= taken
        if taken:
            yield Reservation(kind=each.kind, name=each.name, count=taken)


def _is_ours(each: Reservation, table: LicenseServer, here: Here, options: Options) -> bool | None:
    """Return whether a reservation is ours; `None` if nothing tells."""
    if each.name.casefold() in (name.casefold() for name in table.reserved_for or ()):
        return True
    kind = each.kind.lower()
    if kind in ("user", "host"):
        return here.is_named(kind, each.name)
    members = options.groups.get((kind, each.name.casefold()))
    if members is not None:
        return any(here.is_named(_GROUPS[kind], member) for member in members)
    return None if table.reserved_for is None else False

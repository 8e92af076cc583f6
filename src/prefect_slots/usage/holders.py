"""The holders of license seats outside, for people who ask. Names of people are personal data: shown, never stored."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from prefect_slots.detect.licenses import client
from prefect_slots.detect.licenses.outside import Hold
from prefect_slots.detect.licenses.report import Checkout
from prefect_slots.ledger import folder, schema, store
from prefect_slots.model.finding import printable
from prefect_slots.scheduling.decide import decide
from prefect_slots.settings import Settings
from prefect_slots.system.processes import Users
from prefect_slots.usage import licenses


@dataclass(frozen=True, kw_only=True)
class SeatHolder:
    """Seats that somebody outside holds.

    Attributes:
        host: The holder's host; empty where the server's words do not tell it from the user for certain.
        user: The holder's name; `None` where the setting does not allow it.
        lingering: Seconds for which the seats stay taken after they are given back.
    """

    resource: str
    host: str
    user: str | None
    seats: int
    lingering: int = 0


def holders_now(settings: Settings, env: Mapping[str, str], resources: Collection[str]) -> tuple[SeatHolder, ...]:
    """Return the holders outside of these licenses' seats, by the servers' last answers."""
    told = [
        each
        for each in licenses.ask_servers(settings.declarations.license_servers, env, client.DESK)
        if each.feature is not None and each.resource in resources
    ]
    holds: dict[str, tuple[Hold, ...]] = {}
    state = folder.folder_with(schema.FILE, settings.state_dir, env)
    if state is not None:
        with closing(store.Ledger(state, partial(decide, max_overtakes=settings.max_overtakes))) as ledger:
            holds = {
                each.resource: tuple(ledger.read(partial(licenses.holds_of, resource=each.resource, users=Users())))
                for each in told
            }
    return tuple(
        holder
        for each in told
        if each.feature is not None
        for holder in outside_holders(
            each.resource,
            each.feature.checkouts or (),
            holds.get(each.resource, ()),
            names=settings.show_holders == "users",
        )
    )


def outside_holders(
    resource: str, checkouts: Iterable[Checkout], holds: Iterable[Hold], *, names: bool
) -> Iterator[SeatHolder]:
    """Yield the seats that are not our tasks', one row for each holder."""
    ours: Counter[tuple[str, str]] = Counter()
    for hold in holds:
        ours[hold.user, hold.host] += hold.count
    rows: Counter[tuple[str, str | None, int]] = Counter()
    for checkout in checkouts:
        seats = checkout.count
        for owner in [owner for owner in ours if checkout.belongs_to(*owner)]:
            taken = min(seats, ours[owner])
            ours[owner] -= taken
            seats -= taken
        # A display of several words may be the rest of a name with blanks, and the host a part of the name.
        sure = " " not in checkout.display.partition(" feature=")[0]
        user = checkout.user if sure else f"{checkout.user} {checkout.host} {checkout.display}"
        rows[printable(checkout.host) if sure else "", printable(user) if names else None, checkout.lingering] += seats
    for (host, user, lingering), seats in rows.items():
        if seats:
            yield SeatHolder(resource=resource, host=host, user=user, seats=seats, lingering=lingering)

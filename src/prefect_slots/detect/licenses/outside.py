"""Seats in use outside: the seats that a server shows, less ours. Pure.

Ours are told apart by user, host and number of seats. Our tasks take a seat from the server some time after they are
granted it, and the server shows it some time after that; the same again when they give it back. A seat that cannot
be told apart counts as others': a seat too few makes a task wait, a seat too many makes it fail.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prefect_slots.detect.licenses.report import Checkout, Counted


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Seats that one of our tasks was granted.

    Attributes:
        since: When it was granted them.
        ended: When it gave them back; `None` while it holds them.
    """

    user: str = field(repr=False)
    host: str
    count: int
    since: float
    ended: float | None = None


@dataclass(frozen=True, kw_only=True)
class OutsideUse:
    """The split of the seats in a server's answer.

    Attributes:
        others: Seats in use that are not ours, or no longer.
        unseen: Seats that are ours, and that the server should show by now and does not: tasks that hold a seat
            without using it, or use it under another name.
    """

    others: int
    unseen: int


def outside_use(
    usage: Counted,
    checkouts: Sequence[Checkout] | None,
    holds: Iterable[Hold],
    *,
    reserved: int = 0,
    asked_at: float,
    now: float,
    grace: float,
) -> OutsideUse:
    """Tell others' use from ours.

    Args:
        usage: The server's count; it wins over the list.
        checkouts: The holders of seats; `None` if the server does not name them.
        holds: Seats that our tasks hold or gave back lately.
        reserved: The part of `usage.reserved` that is set aside for us.
        asked_at: When the server was asked, on the clock of `holds`.
        now: The present, on the same clock.
        grace: Seconds in which a task has taken its seats from the server, or given them back, and the server shows it.
    """
    then = [hold for hold in holds if hold.since <= asked_at and (hold.ended is None or hold.ended > asked_at)]
    settled = sum(hold.count for hold in then if hold.since + grace <= asked_at)
    # A seat that was given back after the query is still taken there for a while.
    back = [hold for hold in then if hold.ended is None or hold.ended + grace <= now]
    if checkouts is None:
        ours = sum(hold.count for hold in back if hold.since + grace <= asked_at)
        # A seat that one of ours has may be one of those set aside.
        return OutsideUse(others=max(0, usage.used - max(ours, reserved)), unseen=max(0, settled - usage.used))
    shown = _shown(checkouts, then)
    ours = _explained(shown, back)
    seen = _explained(shown, (hold for hold in then if hold.since + grace <= asked_at))
    # Some servers go on listing a reservation whose seats were taken: those are not set aside twice.
    listed = sum(checkout.count for checkout in checkouts) + usage.reserved - reserved
    ours += min(reserved, max(0, usage.used - listed))
    return OutsideUse(others=max(0, usage.used - ours), unseen=settled - seen)


def _shown(checkouts: Iterable[Checkout], holds: list[Hold]) -> Counter[tuple[str, str]]:
    """Return the seats that the server shows for each user and host of `holds`."""
    owners = {_owner(hold): hold for hold in holds}
    shown: Counter[tuple[str, str]] = Counter()
    for checkout in checkouts:
        # A name may begin another one: of two that fit, the longer is meant.
        fitting = [owner for owner, hold in owners.items() if checkout.belongs_to(hold.user, hold.host)]
        if fitting:
            shown[max(fitting, key=lambda owner: len(" ".join(owner)))] += checkout.count
    return shown


def _explained(shown: Counter[tuple[str, str]], holds: Iterable[Hold]) -> int:
    """Return how many of the seats shown are those of `holds`."""
    held: Counter[tuple[str, str]] = Counter()
    for hold in holds:
        held[_owner(hold)] += hold.count
    return (held & shown).total()


def _owner(hold: Hold) -> tuple[str, str]:
    return hold.user.casefold(), hold.host.partition(".")[0].casefold()

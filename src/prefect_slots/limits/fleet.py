"""The numbers of the fleet's limits: each has one owner, the machine that declared it last by an explicit adoption.

A machine that declares another number keeps running on the owner's, and says so. The owner is recorded in its claim.
Pure: no server, no clock.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from prefect_slots.limits.claim import Claim
from prefect_slots.limits.naming import specs
from prefect_slots.limits.outcome import ExistingLimit
from prefect_slots.model import Scope, Stock


@dataclass(frozen=True, kw_only=True)
class FleetNumbers:
    """The numbers of the fleet in force on one machine.

    Attributes:
        stocks: The machine's resources, with the fleet's numbers in place of its own.
        numbers: The number in force of each declared resource of the fleet.
        owners: The claim of the machine that owns each limit.
        notes: Differences from what this machine declares, by limit, in words with a remedy.
    """

    stocks: tuple[Stock, ...]
    numbers: Mapping[str, int] = field(default_factory=dict[str, int])
    owners: Mapping[str, Claim] = field(default_factory=dict[str, Claim])
    notes: Mapping[str, str] = field(default_factory=dict[str, str])


def owner_of(name: str, claims: Iterable[Claim]) -> Claim | None:
    """Return the claim of the machine that declared the number of a limit last."""
    # Two that declare at the same moment are told apart alike by every machine.
    owners = (claim for claim in claims if name in claim.owned)
    return max(owners, key=lambda claim: (claim.owned[name], claim.ledger_id), default=None)


def fleet_numbers(
    stocks: Iterable[Stock],
    existing: Mapping[str, ExistingLimit],
    claims: Collection[Claim],
    given: Mapping[str, Collection[int]],
    *,
    machine: str,
    ledger_id: str,
    adopt: bool,
) -> FleetNumbers:
    """Return the fleet's numbers that a machine has to keep to.

    Args:
        stocks: The machine's resources with its own numbers.
        existing: All limits of the server.
        claims: The claims of all machines.
        given: The numbers that this machine gave its limits lately.
        machine: Its name.
        ledger_id: Its ledger.
        adopt: This machine's numbers are the fleet's from now on.
    """
    kept: list[Stock] = []
    numbers: dict[str, int] = {}
    owners: dict[str, Claim] = {}
    notes: dict[str, str] = {}
    for stock in stocks:
        name = next((spec.name for spec in specs(machine, [stock]) if spec.scope is Scope.FLEET), None)
        # A number that a license server counts is a fact that every machine can see.
        if name is None or not stock.declared or len(stock.cells) != 1:
            kept.append(stock)
            continue
        ((cell, own),) = stock.cells
        owner = owner_of(name, claims)
        if owner is not None:
            owners[name] = owner
        number = own
        if not adopt and owner is not None and owner.ledger_id != ledger_id:
            number = owner.limits.get(name, own)
        elif not adopt and owner is None and name in existing and existing[name].limit not in given.get(name, ()):
            number = existing[name].limit or own
        if number != own:
            since = owner.owned[name].isoformat(" ", "seconds") if owner else ""
            by = f"declared by '{owner.machine}' at {since}" if owner else "which no machine has declared"
            theirs = f"this machine declares {own}, and the fleet's number is {number}, {by}: that one counts"
            notes[name] = f"{theirs}; `prefect-slots register --adopt` makes this machine's number the fleet's"
        numbers[stock.resource] = number
        kept.append(replace(stock, cells=((cell, number),)))
    return FleetNumbers(stocks=tuple(kept), numbers=numbers, owners=owners, notes=notes)

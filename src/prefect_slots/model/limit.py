"""What a grant occupies on the Prefect server, before it has a name there: units of the canonical order.

A unit is what must be occupied in one atomic call: one limit, or a fleet's limit with this machine's part of it.
The order over units lives in `scheduling.ordering`, the spelling of limit names in `limits.naming`.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefect_slots.model.resource import Scope


@dataclass(frozen=True, kw_only=True)
class LimitUnit:
    """`weight` slots on one place of the canonical order.

    Attributes:
        cell: The cell's number, or `None` for the resource's total on this machine (or in the fleet).
    """

    scope: Scope
    resource: str
    cell: int | None
    weight: int


@dataclass(frozen=True, kw_only=True)
class LimitSpec:
    """A limit that the server should have: its name and number of slots."""

    name: str
    limit: int
    scope: Scope


@dataclass(frozen=True, kw_only=True)
class Stock:
    """A registered resource as limit names need it: numbered cells and their nominal capacities.

    Attributes:
        cells: `(number, capacity)` pairs; a number is given once per cell key and never reused.
    """

    resource: str
    scope: Scope
    cells: tuple[tuple[int, int], ...]

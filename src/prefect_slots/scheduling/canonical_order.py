"""The canonical order: one total order over everything a grant occupies.

Deadlock freedom rests on every process on every machine using this order and no other, so `canonical_key` is the only
comparator: for grouping limits into calls, for acquiring them, and for the rule about nested requests. It compares
fields, never limit names as text (as bytes `"gpu-mem:" < "gpu:"` and `":10" < ":2"`).
"""

from collections.abc import Iterable
from itertools import groupby, pairwise

from prefect_slots.model import LimitUnit, Scope

# Local limits first: a holder of local cells may wait for a fleet limit, and never the reverse.
_RANK = {Scope.WORKER: 0, Scope.FLEET: 1}

Key = tuple[int, str, int]


def canonical_key(scope: Scope, resource: str, cell: int | None = None) -> Key:
    """Return the sort key of a limit: worker scope first, then by resource, its total before its cells."""
    return _RANK[scope], resource, -1 if cell is None else cell


def calls(units: Iterable[LimitUnit]) -> tuple[tuple[LimitUnit, ...], ...]:
    """Group units into server calls, in the order to make them.

    The server takes one number for all names of a call, atomically, so neighbours of equal weight share a call. Only
    neighbours: joining two units across a third would occupy out of order.

    Raises:
        ValueError: if a unit stands twice.
    """
    ordered = sorted(units, key=_key)
    for before, unit in pairwise(ordered):
        if _key(before) == _key(unit):
            raise ValueError(f"{unit} stands twice")
    return tuple(tuple(group) for _, group in groupby(ordered, key=lambda unit: unit.weight))


def _key(unit: LimitUnit) -> Key:
    return canonical_key(unit.scope, unit.resource, unit.cell)


def strictly_after(asked: Iterable[tuple[Scope, str]], held: Iterable[tuple[Scope, str]]) -> bool:
    """Return whether every resource asked for lies after every resource held: only then may a holder wait."""
    lowest = min((canonical_key(*place) for place in asked), default=None)
    highest = max((canonical_key(*place) for place in held), default=None)
    return lowest is None or highest is None or lowest > highest

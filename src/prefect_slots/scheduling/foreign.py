"""Foreign use: what others than this ledger use of a machine's limits, as amounts on its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CellUse:
    """One cell of a resource.

    Attributes:
        held: What this ledger has granted of it.
        foreign: What others use of the cell's own limit, as far as that is known.
    """

    number: int
    capacity: int
    held: int
    foreign: int = 0


def spread(cells: Sequence[CellUse], in_all: int) -> dict[int, int]:
    """Return foreign use by cell number, given what others use of the resource `in_all`.

    What they took of the resource's total and of no cell in particular is set down on the cells with most room, so that
    what is left in all is never more than the server has left.
    """
    foreign = {cell.number: min(cell.foreign, cell.capacity) for cell in cells}
    left = in_all - sum(foreign.values())
    while left > 0:
        cell = max(cells, key=lambda cell: (_room(cell, foreign), -cell.number))
        room = _room(cell, foreign)
        if room <= 0:
            break
        taken = min(room, left)
        foreign[cell.number] += taken
        left -= taken
    for cell in cells:
        # More is in use than there is: what this ledger holds too much is nowhere to be found free.
        taken = max(0, min(left, cell.capacity - foreign[cell.number]))
        foreign[cell.number] += taken
        left -= taken
    return foreign


def _room(cell: CellUse, foreign: Mapping[int, int]) -> int:
    return cell.capacity - cell.held - foreign[cell.number]

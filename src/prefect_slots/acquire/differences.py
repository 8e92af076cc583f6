"""Differences between two states of a registered machine, in words for people."""

from collections.abc import Collection, Iterator
from dataclasses import replace

from prefect_slots.model import CellId, Exclusive, Registered, RegisteredCell, RegisteredResource, format_amount


def changes(before: Registered, after: Registered) -> Iterator[str]:
    """Yield the differences of each cell, in words for people."""
    known = {cell.id: cell for resource in before.resources for cell in resource.cells}
    for resource in after.resources:
        for cell in resource.cells:
            words = _change(known.get(cell.id), cell, resource)
            if words:
                yield f"{resource.name} {cell.id.number} ({cell.label or cell.key}) {words}"


def losses(before: Registered, after: Registered) -> tuple[str, ...]:
    """Return the differences that take something away or give it another size, new cells left out."""
    known = {cell.id for resource in before.resources for cell in resource.cells if cell.present}
    old = tuple(_only(resource, known) for resource in after.resources)
    return tuple(changes(before, replace(after, resources=old)))


def _only(resource: RegisteredResource, known: Collection[CellId]) -> RegisteredResource:
    kept = tuple(cell for cell in resource.cells if cell.id in known)
    return replace(resource, cells=kept)


def _change(before: RegisteredCell | None, now: RegisteredCell, resource: RegisteredResource) -> str:
    size = format_amount(now.capacity, resource.unit)
    if isinstance(now.capacity, Exclusive):
        size += ", for one holder at a time"
    if not now.present:
        return "is gone; nothing more is granted there" if before is not None and before.present else ""
    if now.lost:
        return "" if before is not None and before.lost else "is broken; nothing more is granted there"
    if before is None:
        return f"is new, with {size}"
    if before.lost or not before.present:
        return f"is back, with {size}"
    same = before.capacity == now.capacity and type(before.capacity) is type(now.capacity)
    return "" if same else f"now has {size}"

"""Declared resources: GPUs, licenses, and everything else that no detector can see."""

from collections.abc import Iterator

from prefect_slots.model import GPU_MEM, MIB, SEATS, Cell, Declarations, Resource, license_resource


def declared_resources(declarations: Declarations) -> Iterator[Resource]:
    """Yield the declared resources; `[host]` is not among them, because it corrects what is detected.

    Raises:
        ValueError: for a license whose name cannot be part of a limit's name.
    """
    source = declarations.source
    if declarations.gpus.cards:
        cells = tuple(
            Cell(
                key=card.uuid,
                capacity=card.memory_mib,
                label=card.name,
                compute_capability=card.compute_capability,
            )
            for card in declarations.gpus.cards
        )
        yield Resource(name=GPU_MEM, unit=MIB, cells=cells, origin=source)
    for license in declarations.licenses:
        seats = (Cell(key="0", capacity=license.seats),)
        name = license_resource(license.feature)
        yield Resource(name=name, unit=SEATS, cells=seats, scope=license.scope, origin=source)
    for resource in declarations.resources:
        cells = tuple(Cell(key=str(number), capacity=resource.capacity) for number in range(resource.cells))
        yield Resource(name=resource.name, unit=resource.unit, cells=cells, scope=resource.scope, origin=source)

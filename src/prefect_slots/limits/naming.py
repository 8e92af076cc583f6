"""Names of limits on the Prefect server, for each resource, cell and scope.

The naming is injective: no two resources, cells, scopes or machines share a name, because no part of a name holds a
`:`. Neither Prefect nor the order in which names are occupied is known here.
"""

from collections.abc import Collection, Iterable

from prefect_slots.model import GPU_MEM, LICENSE_PREFIX, LimitSpec, LimitUnit, Scope, Stock, sanitise_machine_name

# Prefect lists and releases holders for limits with this prefix only.
_MIRROR_PREFIX = "tag:"


def base(resource: str) -> str:
    """Return the first part of the names of a resource's limits."""
    if resource.startswith(LICENSE_PREFIX):
        return f"license:{resource.removeprefix(LICENSE_PREFIX)}"
    return resource.replace("_", "-")


def names_of(unit: LimitUnit, machine: str) -> tuple[str, ...]:
    """Return the limits that `unit` occupies in one atomic call, without their mirrors.

    A fleet's total comes with this machine's part of it, so that the server shows the part of each machine. A cell is
    always one machine's.

    Raises:
        ValueError: if `machine` is not a sanitised machine name; one with a `:` would share names with another.
    """
    if sanitise_machine_name(machine) != machine:
        raise ValueError(f"'{machine}' is not a sanitised machine name")
    name = base(unit.resource)
    if unit.cell is not None:
        return (f"{name}:{machine}:{unit.cell}",)
    part = f"{name}:{machine}"
    return (name, part) if unit.scope is Scope.FLEET else (part,)


def cells_counted(stocks: Iterable[Stock]) -> frozenset[str]:
    """Return the resources that have a limit per cell: `gpu_mem` always, others when they have several cells."""
    return frozenset(stock.resource for stock in stocks if stock.resource == GPU_MEM or len(stock.cells) > 1)


def specs(machine: str, stocks: Iterable[Stock]) -> tuple[LimitSpec, ...]:
    """Return the limits that the server should have for `stocks`, without mirrors, sorted by name.

    Only a fleet's total has fleet scope; this machine's part of it and its cells belong to the machine.
    """
    found: list[LimitSpec] = []
    stocks = tuple(stocks)
    per_cell = cells_counted(stocks)
    for stock in stocks:
        placed = [(stock.resource, stock.scope, number, capacity) for number, capacity in stock.cells]
        for unit in units(placed, per_cell):
            names = names_of(unit, machine)
            found += [
                LimitSpec(name=name, limit=unit.weight, scope=Scope.FLEET if name != names[-1] else Scope.WORKER)
                for name in names
                # Prefect divides by the number at a release: nothing held on a limit of zero could be given back.
                if unit.weight > 0
            ]
    return tuple(sorted(found, key=lambda spec: spec.name))


def units(placed: Iterable[tuple[str, Scope, int, int]], per_cell: Collection[str]) -> tuple[LimitUnit, ...]:
    """Return the units that a placement occupies: a total per resource, and one per cell where cells are counted.

    Args:
        placed: `(resource, scope, cell number, amount)` for every cell used; amounts on one cell add up.
        per_cell: Resources that have a limit per cell, as `cells_counted` says.

    Returns:
        Units in no meaningful order: `scheduling.canonical_order` orders and groups them.
    """
    weights: dict[tuple[str, int | None], int] = {}
    scopes: dict[str, Scope] = {}
    for resource, scope, cell, amount in placed:
        scopes[resource] = scope
        weights[resource, None] = weights.get((resource, None), 0) + amount
        if resource in per_cell:
            weights[resource, cell] = weights.get((resource, cell), 0) + amount
    return tuple(
        LimitUnit(scope=scopes[resource] if cell is None else Scope.WORKER, resource=resource, cell=cell, weight=weight)
        for (resource, cell), weight in weights.items()
    )


def mirror_of(limit_name: str, ledger_id: str) -> str:
    """Return the name of the limit that mirrors one ledger's part of `limit_name`."""
    return f"{_MIRROR_PREFIX}{limit_name}@{ledger_id}"


def split_mirror(name: str) -> tuple[str, str] | None:
    """Return `(limit name, ledger id)` if `name` is a mirror, else `None`."""
    if not name.startswith(_MIRROR_PREFIX):
        return None
    limit_name, at, ledger_id = name.removeprefix(_MIRROR_PREFIX).rpartition("@")
    return (limit_name, ledger_id) if at else None


def tag_of(mirror: str) -> str:
    """Return a mirror's name in Prefect's tag routes: the name without its prefix."""
    return mirror.removeprefix(_MIRROR_PREFIX)

"""Contradictions between the keys of a configuration file, each with its place.

A validator of a whole table could not name the key at fault.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from prefect_slots.model.amount import MAX_AMOUNT, format_amount
from prefect_slots.model.declaration import GpuRules
from prefect_slots.model.resource import CPUS, GPU_MEM, MEM, check_feature_name, check_resource_name
from prefect_slots.settings.lines import KeyPath
from prefect_slots.settings.schema import ConfigFile, GpusTable, LicenseTable, ResourceTable

# Each cell becomes a limit on the server, and registration asks about every one of them.
MAX_CELLS = 1000

# Keys that make sense only beside `type`.
_SERVER_KEYS = (
    "server", "command", "feature", "features", "headroom", "poll_seconds", "timeout", "grace_seconds",
    "reserved_for", "reserved_here", "options_file",
)  # fmt: skip
# Keys that each way of looking for a resource decides by itself.
_DECIDED = {
    "disk": ("cells", "unit"),
    "devices": ("capacity", "cells", "headroom"),
    "encoder_sessions": ("capacity", "cells", "unit", "headroom"),
}
_DETECTED = {GPU_MEM: "[gpus]", MEM: "[host]", CPUS: "[host]"}


def contradictions(file: ConfigFile) -> Iterator[tuple[KeyPath, str]]:
    """Yield the place and the words of each contradiction and each impossible name in a well-formed file."""
    yield from _gpu_contradictions(file.gpus)
    if file.host.mem is not None and file.host.mem <= file.host.mem_headroom:
        kept = format_amount(file.host.mem_headroom, "MiB")
        yield (
            ("host", "mem_headroom"),
            f"keeping {kept} free leaves nothing of mem = {format_amount(file.host.mem, 'MiB')}",
        )
    yield from _license_contradictions(file.license)
    for name, table in file.resources.items():
        path = ("resources", name)
        if name in _DETECTED:
            yield path, f"'{name}' is detected; what you know about it goes into {_DETECTED[name]}"
            continue
        try:
            check_resource_name(name)
        except ValueError as wrong:
            yield path, str(wrong)
        yield from _way_contradictions(path, table)
        if table.scope == "fleet" and (table.cells or 1) > 1:
            yield (
                (*path, "cells"),
                'a fleet shares one number, so it has one cell; remove cells, or write scope = "worker"',
            )
        if (table.cells or 1) > MAX_CELLS:
            yield (*path, "cells"), f"at most {MAX_CELLS} cells: each becomes a limit on the server"
        elif (table.capacity or 0) * (table.cells or 1) > MAX_AMOUNT:
            yield (*path, "capacity"), f"all cells together are more than a limit can count ({MAX_AMOUNT})"


def _way_contradictions(path: KeyPath, table: ResourceTable) -> Iterator[tuple[KeyPath, str]]:
    if not table.ways:
        if table.capacity is None:
            yield (*path, "capacity"), "is missing; or say where to look: disk, devices or encoder_sessions"
        if table.headroom:
            yield (*path, "headroom"), "only a disk has a headroom; declare a smaller capacity"
        return
    way, *others = table.ways
    if others:
        yield (*path, others[0]), f"a resource is looked for in one way, and this one has {way}"
    if table.scope == "fleet":
        yield (*path, "scope"), f"{way} is looked for on this machine, so it cannot be the fleet's; declare capacity"
    for key in _DECIDED[way]:
        if getattr(table, key):
            yield (*path, key), f"{way} decides that; remove {key}"


def _license_contradictions(tables: Mapping[str, LicenseTable]) -> Iterator[tuple[KeyPath, str]]:
    owners: dict[str, str] = {}
    for table_name, table in tables.items():
        path = ("license", table_name)
        asked = [key for key in _SERVER_KEYS if getattr(table, key) is not None]
        if table.type is None and table.seats is None:
            missing = "type" if asked else "seats"
            yield (*path, missing), "is missing; write seats, or the type and server of the licence server to ask"
        elif table.type is None and asked:
            yield (*path, asked[0]), "goes with the type of a licence server; seats are a number that stands"
        elif table.type is not None and table.seats is not None:
            yield (*path, "seats"), "the server tells the seats; remove seats, or type"
        elif table.type is not None and table.server is None:
            yield (*path, "server"), "is missing; write the server as port@host"
        elif table.server is not None and table.type != "flexnet" and "," in table.server:
            yield (*path, "server"), "only flexnet has groups of three servers; write one port@host"
        if table.feature is not None and table.features is not None:
            yield (*path, "features"), "write feature for one, or features for several"
            continue
        # Two tables may offer the same name through `features`, which TOML itself cannot notice.
        for name, _ in table.named_features(table_name):
            place = path if table.features is None else (*path, "features")
            try:
                check_feature_name(name)
            except ValueError as wrong:
                remedy = "" if table.features is None else '; name it: features = { name = "feature" }'
                yield place, f"{wrong}{remedy}"
            if name in owners:
                yield place, f"'{name}' is also what [license.{owners[name]}] offers; name one of them otherwise"
            owners.setdefault(name, table_name)


def _gpu_contradictions(gpus: GpusTable) -> Iterator[tuple[KeyPath, str]]:
    rules = GpuRules(exclude=tuple(gpus.exclude))
    seen: Counter[str] = Counter()
    for position, gpu in enumerate(gpus.card):
        path = ("gpus", "card", position, "uuid")
        seen[gpu.uuid] += 1
        if seen[gpu.uuid] == 2:
            yield path, f"'{gpu.uuid}' is declared twice; every card has its own uuid"
        if rules.excludes(gpu.uuid):
            yield path, f"'{gpu.uuid}' is declared here and excluded by [gpus] exclude; remove one of the two"
    if sum(gpu.memory for gpu in gpus.card) > MAX_AMOUNT:
        yield ("gpus", "card"), f"all cards together are more than a limit can count ({MAX_AMOUNT} MiB)"

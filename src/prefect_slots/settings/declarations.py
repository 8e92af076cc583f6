"""Conversion of a configuration file's tables to the model's declarations."""

from prefect_slots.model import Scope, declaration
from prefect_slots.settings.schema import ConfigFile, LicenseTable, ResourceTable


def declarations_of(file: ConfigFile, source: str) -> declaration.Declarations:
    """Return the declarations of `file`; `source` names it in messages."""
    return declaration.Declarations(
        gpus=declaration.GpuRules(
            detect=file.gpus.detect,
            integrated=file.gpus.integrated,
            display_mib=file.gpus.display,
            exclude=tuple(file.gpus.exclude),
            ignore=tuple(file.gpus.ignore),
            headroom_mib=file.gpus.headroom,
            cards=tuple(
                declaration.DeclaredCard(
                    uuid=card.uuid,
                    memory_mib=card.memory,
                    name=card.name,
                    compute_capability=card.compute_capability,
                )
                for card in file.gpus.card
            ),
        ),
        host=declaration.HostRules(cpus=file.host.cpus, mem_mib=file.host.mem, mem_headroom_mib=file.host.mem_headroom),
        licenses=tuple(
            declaration.DeclaredLicense(feature=feature, seats=table.seats, scope=Scope(table.scope or Scope.FLEET))
            for feature, table in sorted(file.license.items())
            if table.seats is not None
        ),
        license_servers=tuple(
            _license_server_of(name, table) for name, table in sorted(file.license.items()) if table.type is not None
        ),
        resources=tuple(
            declaration.DeclaredResource(
                name=name, capacity=t.capacity, cells=t.cells or 1, unit=t.unit or "units", scope=Scope(t.scope)
            )
            for name, t in sorted(file.resources.items())
            if t.capacity is not None and not t.ways
        ),
        watched=tuple(_watched(name, t, source) for name, t in sorted(file.resources.items()) if t.ways),
        detectors=tuple(
            declaration.DetectorRules(name=name, enabled=table.enabled, options=table.options)
            for name, table in sorted(file.detectors.items())
        ),
        source=source,
    )


def _watched(name: str, table: ResourceTable, source: str) -> declaration.Watched:
    """Return the declaration of a resource that names one way to look for it."""
    if table.disk is not None:
        # MiB of the file to whole GiB of the resource: rounded up, so that at least the written amount stays free.
        kept = -(-table.headroom // 1024)
        return declaration.ScratchSpace(name=name, folder=table.disk, headroom_gib=kept, capacity_gib=table.capacity)
    if table.devices is not None:
        return declaration.Instruments(name=name, patterns=tuple(table.devices), unit=table.unit or "device")
    return declaration.EncoderSessions(name=name, most=table.encoder_sessions or 0, source=source)


_PERIODS = ("poll_seconds", "timeout", "grace_seconds")


def _license_server_of(name: str, table: LicenseTable) -> declaration.LicenseServer:
    return declaration.LicenseServer(
        vendor=table.type or "",
        server=table.server or "",
        command=table.command or (),
        features=table.named_features(name),
        headroom=table.headroom or 0,
        scope=None if table.scope is None else Scope(table.scope),
        reserved_for=None if table.reserved_for is None else tuple(table.reserved_for),
        reserved_here=table.reserved_here,
        options_file=table.options_file or "",
        # The defaults are the model's own.
        **{key: getattr(table, key) for key in _PERIODS if getattr(table, key) is not None},
    )

"""From the tables of a configuration file to plain declarations, with their defaults."""

from __future__ import annotations

from typing import Final

from prefect_slots.model.declaration import (
    Declarations,
    DeclaredCard,
    DeclaredLicense,
    DeclaredResource,
    DetectorRules,
    EncoderSessions,
    GpuRules,
    HostRules,
    Instruments,
    LicenseServer,
    ScratchSpace,
    Watched,
)
from prefect_slots.model.resource import Scope
from prefect_slots.settings.schema import ConfigFile, LicenseTable, ResourceTable

POLL_SECONDS: Final = 60.0
LICENSE_TIMEOUT: Final = 10.0
GRACE_SECONDS: Final = 60.0


def declarations_of(file: ConfigFile, source: str) -> Declarations:
    """Return what `file` says about the machine, in the model's words."""
    return Declarations(
        gpus=GpuRules(
            detect=file.gpus.detect,
            exclude=tuple(file.gpus.exclude),
            ignore=tuple(file.gpus.ignore),
            headroom_mib=file.gpus.headroom,
            cards=tuple(DeclaredCard(uuid=c.uuid, memory_mib=c.memory, name=c.name) for c in file.gpus.card),
        ),
        host=HostRules(cpus=file.host.cpus, mem_mib=file.host.mem, mem_headroom_mib=file.host.mem_headroom),
        licenses=tuple(
            DeclaredLicense(feature=feature, seats=table.seats, scope=Scope(table.scope or Scope.FLEET))
            for feature, table in sorted(file.license.items())
            if table.seats is not None
        ),
        license_servers=tuple(
            _license_server_of(name, table) for name, table in sorted(file.license.items()) if table.type is not None
        ),
        resources=tuple(
            DeclaredResource(
                name=name, capacity=t.capacity, cells=t.cells or 1, unit=t.unit or "units", scope=Scope(t.scope)
            )
            for name, t in sorted(file.resources.items())
            if t.capacity is not None and not t.ways
        ),
        watched=tuple(_watched(name, t, source) for name, t in sorted(file.resources.items()) if t.ways),
        detectors=tuple(
            DetectorRules(name=name, enabled=table.enabled, options=table.options)
            for name, table in sorted(file.detectors.items())
        ),
        source=source,
    )


def _watched(name: str, table: ResourceTable, source: str) -> Watched:
    """Return where to look for a resource that names one way."""
    if table.disk is not None:
        kept = -(-table.headroom // 1024)
        return ScratchSpace(name=name, folder=table.disk, headroom_gib=kept, capacity_gib=table.capacity)
    if table.devices is not None:
        return Instruments(name=name, patterns=tuple(table.devices), unit=table.unit or "device")
    return EncoderSessions(name=name, most=table.encoder_sessions or 0, source=source)


def _license_server_of(name: str, table: LicenseTable) -> LicenseServer:
    return LicenseServer(
        vendor=table.type or "",
        server=table.server or "",
        command=table.command or (),
        features=table.named_features(name),
        headroom=table.headroom or 0,
        poll_seconds=POLL_SECONDS if table.poll_seconds is None else table.poll_seconds,
        timeout=LICENSE_TIMEOUT if table.timeout is None else table.timeout,
        grace_seconds=GRACE_SECONDS if table.grace_seconds is None else table.grace_seconds,
        scope=None if table.scope is None else Scope(table.scope),
    )

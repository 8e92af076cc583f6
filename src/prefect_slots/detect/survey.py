"""The survey of one machine: all detectors run at once, and their answers become one inventory.

A detector that fails or hangs makes its own resources unknown, with a finding. It never loses the answers of the others
and never turns into "this machine has none". The host and NVIDIA's GPUs come first, then the other detectors by name.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from prefect_slots.detect.declared import declared_resources
from prefect_slots.detect.detector import (
    DETECT_SECONDS,
    Answer,
    Detector,
    Installed,
    Probe,
    Scene,
    Sight,
    names_installed,
    query_installed,
    unreadable,
)
from prefect_slots.detect.disk import DiskDetector
from prefect_slots.detect.encoders import EncoderDetector
from prefect_slots.detect.gpu.amd import AmdDetector
from prefect_slots.detect.gpu.apple import AppleDetector
from prefect_slots.detect.gpu.intel import IntelDetector
from prefect_slots.detect.gpu.nvidia import NvidiaDetector
from prefect_slots.detect.gpu.nvml import NVIDIA, Nvml, load_nvml
from prefect_slots.detect.host import HostDetector
from prefect_slots.detect.instruments import InstrumentDetector
from prefect_slots.detect.licenses.client import DESK, Desk, LicenseDetector
from prefect_slots.detect.tpu import TpuDetector
from prefect_slots.model import gpu
from prefect_slots.model.amount import Exclusive, format_amount
from prefect_slots.model.declaration import Declarations, DetectorRules, EncoderSessions, ScratchSpace, Watched
from prefect_slots.model.finding import Finding
from prefect_slots.model.resource import GPU_MEM, MEM, Cell, Inventory, Resource
from prefect_slots.system.sysfs import ROOT
from prefect_slots.system.threads import LOOKOUT, Hanging, Look, Lookout

# Detectors that `[detectors.<name>]` can switch off.
SHIPPED: Mapping[str, Detector] = {
    "amd": AmdDetector(),
    "apple": AppleDetector(),
    "intel": IntelDetector(),
    "tpu": TpuDetector(),
}

# Beyond the limits of the license servers themselves, for the start of their programs.
_GRACE_SECONDS = 2.0
_ORDER = {"error": 0, "warning": 1, "info": 2, "ok": 3}


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The resources of a machine, with findings for people.

    Attributes:
        findings: Errors first, then warnings, then remarks.
        sights: Explanations of all cells, detected and declared amounts side by side, sorted by resource.
    """

    inventory: Inventory
    findings: tuple[Finding, ...] = ()
    sights: tuple[Sight, ...] = ()


def survey(
    declarations: Declarations,
    env: Mapping[str, str],
    *,
    seconds: float = DETECT_SECONDS,
    load: Callable[[], Nvml] = load_nvml,
    root: Path = ROOT,
    installed: Callable[[], Installed] = query_installed,
    desk: Desk = DESK,
    lookout: Lookout = LOOKOUT,
) -> Survey:
    """Survey this machine. Never raises because of the machine's state.

    Args:
        declarations: The configuration's tables about the machine.
        env: The environment in which tasks will run.
        seconds: Time limit of each detector; license servers have limits of their own.
        load: Imports NVIDIA's binding.
        root: The folder that stands for `/`.
        installed: Loads the detectors of other packages.
        desk: The client of license servers.
        lookout: Runs the detectors, and remembers those that hang.
    """
    scene = Scene(root=root, env=env, gpus=declarations.gpus, load=load)
    brought, instead = _brought(installed, seconds, lookout)
    probes = list(_probes(declarations, scene, brought, desk, seconds))
    seen = lookout.send({probe.label: Look(probe.run, probe.seconds) for probe in probes})
    answers = [
        probe.hanging(answer.words) if isinstance(answer := seen[probe.label], Hanging) else answer for probe in probes
    ]
    return merge([*answers, *instead, *_unusable(declarations, brought)], tuple(declared_resources(declarations)))


def _brought(
    installed: Callable[[], Installed], seconds: float, lookout: Lookout
) -> tuple[Installed, tuple[Answer, ...]]:
    """Load the detectors of other packages; if the import of one hangs, none of them runs and an answer says so."""
    label = "detectors of other packages"
    loaded = lookout.send({label: Look(installed, seconds)})[label]
    if not isinstance(loaded, Hanging):
        return loaded, ()
    problem = f"importing the detectors of other packages {loaded.words}; none of them looks"
    remedy = "uninstall the package that hangs, or tell whoever made it"
    return Installed(), (unreadable("[detectors]", problem, remedy, frozenset(names_installed())),)


def _probes(
    declarations: Declarations, scene: Scene, brought: Installed, desk: Desk, seconds: float
) -> Iterator[Probe]:
    """Yield the probes of a survey; of two that find one resource the first is believed."""
    host = HostDetector(declarations.host, declarations.source)
    yield Probe(name=MEM, label="the host", detector=host, scene=scene, seconds=seconds, own=True)
    if declarations.gpus.detect:
        yield Probe(name=GPU_MEM, label=NVIDIA, detector=NvidiaDetector(), scene=scene, seconds=seconds, own=True)
    rules = {rule.name: rule for rule in declarations.detectors}
    for name, detector in sorted({**brought.detectors, **SHIPPED}.items()):
        rule = rules.get(name, DetectorRules(name=name))
        finds_gpus = name in SHIPPED and GPU_MEM in detector.resources
        if rule.enabled and (declarations.gpus.detect or not finds_gpus):
            told = replace(scene, options=rule.options)
            yield Probe(name=name, label=f"detector {name}", detector=detector, scene=told, seconds=seconds)
    for watched in declarations.watched:
        label, detector = f"resource {watched.name}", _watcher(watched)
        yield Probe(name=watched.name, label=label, detector=detector, scene=scene, seconds=seconds)
    if servers := declarations.license_servers:
        seats = LicenseDetector(servers, desk)
        # Each server waits for its turn within its own limit, and those of one address are asked one after the other.
        limit = 2 * sum(table.timeout for table in servers) + _GRACE_SECONDS
        yield Probe(name=seats.names[-1], label="licence servers", detector=seats, scene=scene, seconds=limit, own=True)


def _watcher(watched: Watched) -> Detector:
    if isinstance(watched, ScratchSpace):
        return DiskDetector(watched)
    return EncoderDetector(watched) if isinstance(watched, EncoderSessions) else InstrumentDetector(watched)


def _unusable(declarations: Declarations, brought: Installed) -> Iterator[Answer]:
    """Yield answers in place of detectors that cannot be loaded, and of configured ones that do not exist."""
    rules = {rule.name: rule for rule in declarations.detectors}
    yield from (answer for name, answer in brought.failed.items() if name not in rules or rules[name].enabled)
    others = sorted({**brought.detectors, **SHIPPED})
    for name in rules:
        if name not in others and name not in brought.failed:
            remedy = f"install the package that brings it; there are {', '.join(others)}"
            yield Answer(findings=(Finding(subject=f"[detectors.{name}]", problem="there is none", remedy=remedy),))


def merge(answers: list[Answer], declared: tuple[Resource, ...]) -> Survey:
    """Return one survey of all answers; a declared cell replaces a detected cell with the same key."""
    findings = [finding for answer in answers for finding in answer.findings]
    resources: dict[str, Resource] = {}
    settled: set[str] = set()
    for answer in answers:
        for resource in answer.resources:
            if resource.name in settled:
                findings.append(_left_out(resource))
            else:
                resources[resource.name] = resource
        settled |= answer.unknown | {resource.name for resource in answer.resources}
    for resource in declared:
        if resource.name in resources:
            detected = resources[resource.name]
            findings.extend(_exceeding(resource, detected))
            resources[resource.name] = _joined(detected, resource)
        else:
            resources[resource.name] = resource
    if GPU_MEM in resources:
        resources[GPU_MEM], loose = _pinnable(resources[GPU_MEM])
        findings.extend(loose)
    keys = {cell.key for resource in resources.values() for cell in resource.cells}
    inventory = Inventory(
        resources=tuple(resources[name] for name in sorted(resources)),
        unknown=frozenset(name for answer in answers for name in answer.unknown),
        unknown_cells=frozenset(key for answer in answers for key in answer.unknown_cells) - keys,
        lost=frozenset(name for answer in answers for name in answer.lost),
        lost_cells=frozenset(key for answer in answers for key in answer.lost_cells) - keys,
    )
    return Survey(
        inventory=inventory,
        findings=tuple(sorted(findings, key=lambda finding: _ORDER[finding.severity])),
        sights=_side_by_side(answers, declared, inventory),
    )


def _side_by_side(answers: list[Answer], declared: tuple[Resource, ...], inventory: Inventory) -> tuple[Sight, ...]:
    """Return an explanation of each cell: its detected, its declared and its offered amount."""
    sights = {(sight.resource, sight.key): sight for answer in answers for sight in answer.sights}
    origins: dict[tuple[str, str], str] = {}
    for resource in (resource for answer in answers for resource in answer.resources):
        for cell in resource.cells:
            place = resource.name, cell.key
            sights.setdefault(place, replace(_plain(resource, cell), found=cell.capacity))
            origins.setdefault(place, resource.origin)
    for resource in declared:
        for cell in resource.cells:
            place = resource.name, cell.key
            seen = sights.get(place, _plain(resource, cell))
            sights[place] = replace(seen, declared=cell.capacity, why="")
            origins[place] = resource.origin
    for resource in inventory.resources:
        for cell in resource.cells:
            place = resource.name, cell.key
            why = ", ".join(filter(None, (origins[place], sights[place].why)))
            sights[place] = replace(sights[place], offered=cell.capacity, why=why)
            del origins[place]
    for place in origins:
        sights[place] = replace(sights[place], why="left out beside what another detector tells")
    return tuple(sorted(sights.values(), key=lambda sight: sight.resource))


def _plain(resource: Resource, cell: Cell) -> Sight:
    return Sight(resource=resource.name, key=cell.key, unit=resource.unit, label=cell.label)


def _left_out(resource: Resource) -> Finding:
    """Return the remark on a resource that a second detector found: a task could get cells of two kinds."""
    return Finding(
        subject=resource.name,
        problem=f"what {resource.origin} tells is left out beside what another one tells: "
        + ", ".join(cell.label or cell.key for cell in resource.cells),
        remedy="a task could get either kind; to use these instead, list the others under [gpus] exclude",
        severity="info",
    )


def _pinnable(gpus: Resource) -> tuple[Resource, list[Finding]]:
    """Return the GPUs with those exclusive to which no task can be pinned, and a finding for each of these."""
    keys = [cell.key for cell in gpus.cells]
    numbered = [
        replace(cell, index=gpu.number_among(cell.key, keys)) if cell.index is None else cell for cell in gpus.cells
    ]
    loose = {cell.key for cell in numbered if gpu.unpinned([gpu.Gpu(cell.key, cell.index)], keys)}
    # Each process sees all GPUs of the kind. With one holder a GPU, tasks that choose theirs do not meet there.
    cells = [replace(cell, capacity=Exclusive(cell.capacity)) if cell.key in loose else cell for cell in numbered]
    findings: list[Finding] = []
    for key in sorted(loose):
        vendor = gpu.vendor_of(key)
        if vendor is gpu.UNKNOWN:
            problem = "its identity tells no vendor, so tasks are not pinned to it, and one at a time may have it"
            remedy = "write the UUID that its driver prints, such as GPU-..., or read grant.devices in the task"
        else:
            problem = f"no variable pins a task to one of these {vendor.name} GPUs, so one task at a time may have it"
            remedy = "choose the GPU of grant.devices in the task, or leave all but one out with [gpus] exclude"
        findings.append(Finding(subject=key, problem=problem, remedy=remedy))
    return replace(gpus, cells=tuple(cells)), findings


def _joined(detected: Resource, declared: Resource) -> Resource:
    replaced = {cell.key for cell in declared.cells}
    kept = tuple(cell for cell in detected.cells if cell.key not in replaced)
    numbers = {cell.key: cell.index for cell in detected.cells}
    origin = f"{detected.origin}, {declared.origin}" if kept else declared.origin
    cells = (*kept, *(replace(cell, index=numbers.get(cell.key)) for cell in declared.cells))
    return replace(detected, cells=cells, origin=origin)


def _exceeding(declared: Resource, detected: Resource) -> list[Finding]:
    """Return warnings of cells that are declared larger than detected."""
    seen = {cell.key: cell.capacity for cell in detected.cells}
    return [
        Finding(
            subject=cell.key,
            problem=f"declared {format_amount(cell.capacity, declared.unit)}, "
            f"but {format_amount(seen[cell.key], detected.unit)} can be used",
            remedy="lower it, or leave the declaration out",
        )
        for cell in declared.cells
        if cell.key in seen and cell.capacity > seen[cell.key]
    ]

"""The survey of one machine: every probe is run, and their answers become one inventory.

All look at once. A probe that fails or hangs makes its resources unknown, with a finding; it never loses what the
others saw, and never turns into "this machine has none". The host and NVIDIA's cards come first, then the other
detectors by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from prefect_slots.detect.declared import declared_resources
from prefect_slots.detect.detector import (
    Answer,
    Detector,
    Installed,
    Scene,
    Sight,
    hanging_of,
    names_installed,
    query_installed,
    run,
)
from prefect_slots.detect.disk import DiskDetector
from prefect_slots.detect.encoders import EncoderDetector
from prefect_slots.detect.gpu.amd import AmdDetector
from prefect_slots.detect.gpu.apple import AppleDetector
from prefect_slots.detect.gpu.intel import IntelDetector
from prefect_slots.detect.gpu.nvidia import interpret_nvml, query_nvml
from prefect_slots.detect.gpu.nvml import NVIDIA, Nvml, load_nvml
from prefect_slots.detect.host import interpret_host, query_cores, query_memory
from prefect_slots.detect.instruments import InstrumentDetector
from prefect_slots.detect.licenses.client import DESK, Desk, look_at_licences
from prefect_slots.detect.tpu import TpuDetector
from prefect_slots.model import gpu
from prefect_slots.model.amount import format_amount
from prefect_slots.model.declaration import Declarations, DetectorRules, EncoderSessions, ScratchSpace, Watched
from prefect_slots.model.finding import Finding
from prefect_slots.model.resource import CPUS, GPU_MEM, MEM, Cell, Inventory, Resource, license_resource
from prefect_slots.system.container import query_surroundings
from prefect_slots.system.sysfs import ROOT
from prefect_slots.system.threads import LOOKOUT, Hanging, Look, Lookout

SHIPPED: Final[Mapping[str, Detector]] = {
    "amd": AmdDetector(),
    "apple": AppleDetector(),
    "intel": IntelDetector(),
    "tpu": TpuDetector(),
}

DETECT_SECONDS: Final = 20.0
"""Cards that nobody keeps awake take seconds each to answer."""
_GRACE_SECONDS: Final = 2.0
_ORDER: Final = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a machine has, and what a person should know about it.

    Attributes:
        findings: Errors first, then warnings, then remarks.
        sights: What was found and what was declared of each place, side by side, sorted by resource.
    """

    inventory: Inventory
    findings: tuple[Finding, ...] = ()
    sights: tuple[Sight, ...] = ()


@dataclass(frozen=True)
class _Probe:
    """One probe: what it looks at, for people, and what makes an answer of it that stands for one that hangs."""

    what: str
    look: Look
    hanging: Callable[[str], Answer]


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
    """Look at what this machine has. Never raises for what the machine does.

    Args:
        declarations: What the configuration says.
        env: The environment that tasks will run in.
        seconds: After which a probe that does not answer is left behind; licence servers have limits of their own.
        load: Gives NVIDIA's binding.
        root: The folder that stands for `/`.
        installed: Gives the detectors that other packages bring.
        desk: Where licence servers are asked.
        lookout: Who keeps watch over the probes.
    """
    memory_mib = partial(query_memory, root)

    def host() -> Answer:
        return interpret_host(declarations.host, declarations.source, partial(query_cores, root), memory_mib)

    def nvml() -> Answer:
        return interpret_nvml(query_nvml(load), declarations.gpus, env, memory_mib, query_surroundings(root, env))

    def licences() -> Answer:
        return look_at_licences(declarations.license_servers, env, desk)

    probes = [_own(host, "the host", seconds, CPUS, MEM)]
    if declarations.gpus.detect:
        probes.append(_own(nvml, NVIDIA, seconds, GPU_MEM))
    brought, instead = _brought(installed, seconds, lookout)
    scene = Scene(root=root, env=env, gpus=declarations.gpus, load=load)
    probes.extend(_detectors(declarations, scene, brought, seconds))
    if declarations.license_servers:
        seats = [license_resource(name) for table in declarations.license_servers for name, _ in table.features]
        # Each waits for its turn and is given up by its own limit; those of one server are asked one after the other.
        limit = 2 * sum(table.timeout for table in declarations.license_servers) + _GRACE_SECONDS
        probes.append(_own(licences, "licence servers", limit, *seats))
    seen = lookout.send({probe.what: probe.look for probe in probes})
    answers = [
        probe.hanging(answer.words) if isinstance(answer := seen[probe.what], Hanging) else answer for probe in probes
    ]
    return merge([*answers, *instead, *_failed(declarations, brought)], tuple(declared_resources(declarations)))


def _own(probe: Callable[[], Answer], what: str, seconds: float, *names: str) -> _Probe:
    """Make a probe of our own, of which a mistake is told and leaves unknown what it looks for."""

    def hanging(words: str) -> Answer:
        remedy = "what was registered before stays; see the kernel log, a driver that hangs may need a reboot"
        finding = Finding(subject=names[-1], problem=f"looking at {what} {words}", remedy=remedy, severity="error")
        return Answer(unknown=frozenset(names), findings=(finding,))

    return _Probe(what, Look(partial(_guarded, probe, what, *names), seconds), hanging)


def _brought(
    installed: Callable[[], Installed], seconds: float, lookout: Lookout
) -> tuple[Installed, tuple[Answer, ...]]:
    """Load what other packages bring, or say that one of them hangs while it is imported."""
    loaded = lookout.send({"detectors of other packages": Look(installed, seconds)})["detectors of other packages"]
    if not isinstance(loaded, Hanging):
        return loaded, ()
    problem = f"importing the detectors of other packages {loaded.words}; none of them looks"
    remedy = "uninstall the package that hangs, or tell whoever made it"
    finding = Finding(subject="[detectors]", problem=problem, remedy=remedy, severity="error")
    return Installed(), (Answer(unknown=frozenset(names_installed()), findings=(finding,)),)


def _detectors(declarations: Declarations, scene: Scene, brought: Installed, seconds: float) -> Iterator[_Probe]:
    """Yield the detectors: those shipped and installed unless they are switched off, and those that were asked for."""
    rules = {rule.name: rule for rule in declarations.detectors}
    for name, detector in sorted({**brought.detectors, **SHIPPED}.items()):
        rule = rules.get(name, DetectorRules(name=name))
        cards = GPU_MEM in detector.resources if name in SHIPPED else False
        if rule.enabled and (declarations.gpus.detect or not cards):
            yield _detector(name, f"detector {name}", detector, replace(scene, options=rule.options), seconds)
    for watched in declarations.watched:
        yield _detector(watched.name, f"resource {watched.name}", _watcher(watched), scene, seconds)


def _detector(name: str, what: str, detector: Detector, scene: Scene, seconds: float) -> _Probe:
    return _Probe(what, Look(partial(run, name, detector, scene), seconds), partial(hanging_of, name, detector))


def _failed(declarations: Declarations, brought: Installed) -> Iterator[Answer]:
    """Yield what stands for detectors that are there and cannot be used, or named and not there."""
    rules = {rule.name: rule for rule in declarations.detectors}
    yield from (answer for name, answer in brought.failed.items() if name not in rules or rules[name].enabled)
    others = sorted({**brought.detectors, **SHIPPED})
    for name in rules:
        if name not in others and name not in brought.failed:
            remedy = f"install the package that brings it; there are {', '.join(others)}"
            yield Answer(findings=(Finding(subject=f"[detectors.{name}]", problem="there is none", remedy=remedy),))


def _watcher(watched: Watched) -> Detector:
    if isinstance(watched, ScratchSpace):
        return DiskDetector(watched)
    return EncoderDetector(watched) if isinstance(watched, EncoderSessions) else InstrumentDetector(watched)


def _guarded(probe: Callable[[], Answer], what: str, *names: str) -> Answer:
    """Run a probe; a mistake in it, or in a library below it, is told and leaves its resources unknown."""
    try:
        return probe()
    except Exception as error:
        finding = Finding(
            subject=names[-1],
            problem=f"looking at {what} failed: {type(error).__name__}: {error}",
            remedy="please report this; until then declare the resource in prefect-slots.toml",
            severity="error",
        )
        return Answer(unknown=frozenset(names), findings=(finding,))


def merge(answers: list[Answer], declared: tuple[Resource, ...]) -> Survey:
    """Join what was detected with what is declared. A declared cell replaces the detected one of the same key."""
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
    findings.extend(_unpinned(resources.get(GPU_MEM)))
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
    """Return what was seen of each place and what was declared of it, with what the inventory makes of both."""
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
    """Tell of what a second detector finds of a resource: a task could get either kind, and most bear only one."""
    return Finding(
        subject=resource.name,
        problem=f"what {resource.origin} tells is left out beside what another one tells: "
        + ", ".join(cell.label or cell.key for cell in resource.cells),
        remedy="a task could get either kind; to use these instead, list the others under [gpus] exclude",
        severity="info",
    )


def _unpinned(gpus: Resource | None) -> Iterator[Finding]:
    """Yield a finding for each GPU to which no task can be pinned."""
    keys = [cell.key for cell in gpus.cells] if gpus else []
    for key in keys:
        if not gpu.unpinned([key], keys):
            continue
        vendor = gpu.vendor_of(key)
        if vendor is gpu.UNKNOWN:
            problem = "its identity tells no vendor: tasks are not pinned to it, and grant.device has no name for it"
            remedy = "write the UUID that its driver prints, such as GPU-..., or read grant.devices in the task"
        else:
            problem = f"tasks cannot be pinned to one of several {vendor.name} GPUs by a variable"
            remedy = "compute on grant.device in the task, or leave all but one out with [gpus] exclude"
        yield Finding(subject=key, problem=problem, remedy=remedy)


def _joined(detected: Resource, declared: Resource) -> Resource:
    replaced = {cell.key for cell in declared.cells}
    kept = tuple(cell for cell in detected.cells if cell.key not in replaced)
    origin = f"{detected.origin}, {declared.origin}" if kept else declared.origin
    return replace(detected, cells=kept + declared.cells, origin=origin)


def _exceeding(declared: Resource, detected: Resource) -> list[Finding]:
    """Tell of cells that are declared larger than what was detected."""
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

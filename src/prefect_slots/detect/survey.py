"""The survey of one machine: every probe is run, and their answers become one inventory.

A probe that fails makes its resources unknown, with a finding; it never loses what the others saw, and never turns into
"this machine has none". The host and NVIDIA's cards come first, then the other detectors by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from prefect_slots.detect.amd import AmdDetector
from prefect_slots.detect.answer import Answer, Sight
from prefect_slots.detect.binding import Nvml, load_nvml
from prefect_slots.detect.cards import interpret_nvml
from prefect_slots.detect.declared import declared_resources
from prefect_slots.detect.detector import Detector, Installed, Scene, query_installed, run
from prefect_slots.detect.disk import DiskDetector
from prefect_slots.detect.encoders import EncoderDetector
from prefect_slots.detect.host import ROOT, interpret_host, query_cores, query_memory
from prefect_slots.detect.instruments import InstrumentDetector
from prefect_slots.detect.licences.look import look_at_licences
from prefect_slots.detect.licences.query import DESK, Desk
from prefect_slots.detect.nvml import query_nvml
from prefect_slots.detect.surroundings import query_surroundings
from prefect_slots.detect.tpu import TpuDetector
from prefect_slots.model.amount import format_amount
from prefect_slots.model.declaration import Declarations, DetectorRules, EncoderSessions, ScratchSpace, Watched
from prefect_slots.model.resource import CPUS, GPU_MEM, MEM, Cell, Finding, Inventory, Resource, license_resource

SHIPPED: Final[Mapping[str, Detector]] = {"amd": AmdDetector(), "tpu": TpuDetector()}

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


def survey(
    declarations: Declarations,
    env: Mapping[str, str],
    *,
    load: Callable[[], Nvml] = load_nvml,
    root: Path = ROOT,
    installed: Callable[[], Installed] = query_installed,
    desk: Desk = DESK,
) -> Survey:
    """Look at what this machine has. Never raises for what the machine does.

    Args:
        declarations: What the configuration says.
        env: The environment that tasks will run in.
        load: Gives NVIDIA's binding.
        root: The folder that stands for `/`.
        installed: Gives the detectors that other packages bring.
        desk: Where licence servers are asked.
    """
    memory_mib = partial(query_memory, root)

    def host() -> Answer:
        return interpret_host(declarations.host, declarations.source, partial(query_cores, root), memory_mib)

    def nvml() -> Answer:
        return interpret_nvml(query_nvml(load), declarations.gpus, env, memory_mib, query_surroundings(root))

    def licences() -> Answer:
        return look_at_licences(declarations.license_servers, env, desk)

    answers = [_guarded(host, "the host", CPUS, MEM)]
    if declarations.gpus.detect:
        answers.append(_guarded(nvml, "NVIDIA's cards", GPU_MEM))
    scene = Scene(root=root, env=env, gpus=declarations.gpus, load=load)
    answers.extend(_detected(declarations, scene, installed()))
    if declarations.license_servers:
        seats = [license_resource(name) for table in declarations.license_servers for name, _ in table.features]
        answers.append(_guarded(licences, "licence servers", *seats))
    return merge(answers, tuple(declared_resources(declarations)))


def _detected(declarations: Declarations, scene: Scene, installed: Installed) -> Iterator[Answer]:
    """Run the detectors: those shipped and those installed unless they are switched off, those that were asked for."""
    rules = {rule.name: rule for rule in declarations.detectors}
    others = dict(sorted({**installed.detectors, **SHIPPED}.items()))
    for name, detector in others.items():
        rule = rules.get(name, DetectorRules(name=name))
        cards = GPU_MEM in detector.resources if name in SHIPPED else False
        if rule.enabled and (declarations.gpus.detect or not cards):
            yield run(name, detector, replace(scene, options=rule.options))
    yield from (answer for name, answer in installed.failed.items() if name not in rules or rules[name].enabled)
    for name in rules:
        if name not in others and name not in installed.failed:
            remedy = f"install the package that brings it; there are {', '.join(others)}"
            yield Answer(findings=(Finding(subject=f"[detectors.{name}]", problem="there is none", remedy=remedy),))
    for watched in declarations.watched:
        yield run(watched.name, _watcher(watched), scene)


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
    keys = {cell.key for resource in resources.values() for cell in resource.cells}
    inventory = Inventory(
        resources=tuple(resources[name] for name in sorted(resources)),
        unknown=frozenset(name for answer in answers for name in answer.unknown),
        unknown_cells=frozenset(key for answer in answers for key in answer.unknown_cells) - keys,
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

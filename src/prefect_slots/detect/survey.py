"""The survey of one machine: every probe is run, and their answers become one inventory.

A probe that fails makes its resources unknown, with a finding; it never loses what the others saw, and never turns into
"this machine has none".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from prefect_slots.detect.answer import Answer
from prefect_slots.detect.binding import Nvml, load_nvml
from prefect_slots.detect.declared import declared_resources
from prefect_slots.detect.host import ROOT, interpret_host, query_cores, query_memory
from prefect_slots.detect.licences.look import look_at_licences
from prefect_slots.detect.licences.query import DESK, Desk
from prefect_slots.detect.nvml import interpret_nvml, query_nvml
from prefect_slots.model.amount import format_amount
from prefect_slots.model.declaration import Declarations
from prefect_slots.model.resource import CPUS, GPU_MEM, MEM, Finding, Inventory, Resource, license_resource

_ORDER: Final = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a machine has, and what a person should know about it: errors first, then warnings, then remarks."""

    inventory: Inventory
    findings: tuple[Finding, ...] = ()


def survey(
    declarations: Declarations,
    env: Mapping[str, str],
    *,
    load: Callable[[], Nvml] = load_nvml,
    root: Path = ROOT,
    desk: Desk = DESK,
) -> Survey:
    """Look at what this machine has. Never raises for what the machine does.

    Args:
        declarations: What the configuration says.
        env: The environment that tasks will run in.
        load: Gives NVIDIA's binding.
        root: The folder that stands for `/`.
        desk: Where licence servers are asked.
    """
    memory_mib = partial(query_memory, root)

    def host() -> Answer:
        return interpret_host(declarations.host, declarations.source, partial(query_cores, root), memory_mib)

    def nvml() -> Answer:
        return interpret_nvml(query_nvml(load), declarations.gpus, env, memory_mib)

    def licences() -> Answer:
        return look_at_licences(declarations.license_servers, env, desk)

    answers = [_guarded(host, "the host", CPUS, MEM)]
    if declarations.gpus.detect:
        answers.append(_guarded(nvml, "NVIDIA's cards", GPU_MEM))
    if declarations.license_servers:
        seats = [license_resource(name) for table in declarations.license_servers for name, _ in table.features]
        answers.append(_guarded(licences, "licence servers", *seats))
    return merge(answers, tuple(declared_resources(declarations)))


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
    resources = {resource.name: resource for answer in answers for resource in answer.resources}
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
    return Survey(inventory=inventory, findings=tuple(sorted(findings, key=lambda finding: _ORDER[finding.severity])))


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

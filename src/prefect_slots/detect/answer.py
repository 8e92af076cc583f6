"""What one probe answers: resources, findings, and what it could not read."""

from __future__ import annotations

from dataclasses import dataclass, field

from prefect_slots.model.resource import Finding, Resource


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer of one probe.

    Attributes:
        unknown: Resources whose cells could not all be read. One may be in `resources` too: its listed cells are true,
            and cells that are not listed may still exist.
        unknown_cells: Keys of cells that exist but could not be read now.
    """

    resources: tuple[Resource, ...] = ()
    findings: tuple[Finding, ...] = ()
    unknown: frozenset[str] = field(default_factory=frozenset[str])
    unknown_cells: frozenset[str] = field(default_factory=frozenset[str])

"""What one probe answers: resources, findings, what it could not read, and what it saw on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

from prefect_slots.model.resource import Finding, Resource


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One place of a resource beside what became of it, for people.

    Attributes:
        key: The cell's key, also of one that is not offered.
        found: What was seen there, before anything is taken off; `None` where nothing looked or could look.
        declared: What a person wrote down; `None` where nobody did.
        offered: What tasks may take; `None` if nothing.
        why: What lies between.
    """

    resource: str
    key: str
    unit: str
    label: str = ""
    found: int | None = None
    declared: int | None = None
    offered: int | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer of one probe.

    Attributes:
        unknown: Resources whose cells could not all be read. One may be in `resources` too: its listed cells are true,
            and cells that are not listed may still exist.
        unknown_cells: Keys of cells that exist but could not be read now.
        lost: Resources of which every cell that is not listed is broken or gone; they are in `unknown` too.
        lost_cells: Keys of cells that are broken; they are in `unknown_cells` too.
        sights: What was looked at, where it is not simply what `resources` lists.
    """

    resources: tuple[Resource, ...] = ()
    findings: tuple[Finding, ...] = ()
    unknown: frozenset[str] = field(default_factory=frozenset[str])
    unknown_cells: frozenset[str] = field(default_factory=frozenset[str])
    lost: frozenset[str] = field(default_factory=frozenset[str])
    lost_cells: frozenset[str] = field(default_factory=frozenset[str])
    sights: tuple[Sight, ...] = ()

"""What one probe answers: resources, findings, what it could not read, and what it saw on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from prefect_slots.model.finding import UNPRINTABLE, Finding
from prefect_slots.model.resource import Resource


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


def check_answer(value: object) -> Answer:
    """Return what another package answered, if it is an `Answer` down to its last field.

    Raises:
        TypeError: for anything else: it would fail later, where nobody could tell whose mistake it is.
    """
    if not isinstance(value, Answer):
        raise TypeError(f"it answered {type(value).__name__} instead of Answer")
    for mistake in _mistakes(value, Answer, "its answer"):
        raise TypeError(mistake)
    return value


def _mistakes(value: Any, kind: Any, at: str) -> Iterator[str]:
    """Yield what is not as `kind` says: a dataclass, a tuple or set of one kind, a choice of several, or a class."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        if all(any(_mistakes(value, each, at)) for each in args):
            yield f"{at} is {value!r}"
    elif origin is Literal:
        if value not in args:
            yield f"{at} is {value!r}, not one of {', '.join(args)}"
    elif not isinstance(value, origin or kind) or (kind is int and isinstance(value, bool)):
        yield f"{at} is {type(value).__name__} instead of {(origin or kind).__name__}"
    elif kind is str and UNPRINTABLE.search(value):
        yield f"{at} cannot be printed: {value!a}"
    elif origin is not None:
        for place, each in enumerate(value):
            yield from _mistakes(each, args[0], f"{at}[{place}]")
    elif is_dataclass(kind):
        for name, hint in _hints(kind).items():
            yield from _mistakes(getattr(value, name), hint, f"{at}.{name}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)

"""`any_of(...)`: what a call can do with, in order of preference; a grant is of the first that is to be had.

Checked when it is made; it becomes a requirement when its callables have been asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prefect_slots.errors import InvalidRequirement
from prefect_slots.model.requirement import Requirement, declare, spelled


class any_of:  # noqa: N801 - used within `requires(...)`, it reads as words
    """Alternatives in order of preference: `requires(any_of(dict(gpu_mem=8), dict(cpus=8)))`.

    One ticket waits for all of them, and is granted the first that fits when its turn comes; `grant.chosen` tells.
    It is impossible only if every alternative is. Overtaken too often, it reserves for the first that is possible here.

    Args:
        alternatives: Each the amounts of a `requires(...)`.

    Raises:
        InvalidRequirement: if there is none, or one is no amounts.
    """

    def __init__(self, *alternatives: Mapping[str, Any]) -> None:
        self.alternatives = tuple(map(_checked, alternatives))
        if not self.alternatives:
            raise _invalid("", "name at least one alternative, such as dict(gpu_mem=8)")

    def __repr__(self) -> str:
        return f"any_of({', '.join(map(repr, self.alternatives))})"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the alternatives, the preferred one first."""
        return iter(self.alternatives)


def read_alternatives(given: object) -> any_of | None:
    """Return what `any_of=` or the first argument of `requires` says: alternatives, or a list of them.

    Raises:
        InvalidRequirement: if it is neither.
    """
    if given is None or isinstance(given, any_of):
        return given
    if isinstance(given, (list, tuple)):
        return any_of(*given)  # pyright: ignore[reportUnknownVariableType]
    raise _invalid(given, "alternatives, such as any_of(dict(gpu_mem=8), dict(cpus=8))")


def combined(alternatives: any_of | None, common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the amounts of each alternative, those that all have in common included.

    Raises:
        InvalidRequirement: if an alternative says again what all have in common.
    """
    if alternatives is None:
        return [dict(common)]
    for alternative in alternatives:
        for name in alternative.keys() & common.keys():
            raise _invalid(alternative, f"'{name}' is asked for in all alternatives already")
    return [{**common, **alternative} for alternative in alternatives]


def declare_any(amounts: Iterable[Mapping[str, Any]]) -> Requirement:
    """Return the requirement of the first of these amounts that is to be had.

    Raises:
        InvalidRequirement: see `declare`.
    """
    return Requirement.any_of([declare(**each) for each in amounts])


def _checked(alternative: object) -> dict[str, Any]:
    if not isinstance(alternative, Mapping) or not all(isinstance(name, str) for name in alternative):  # pyright: ignore[reportUnknownVariableType]
        raise _invalid(alternative, "an alternative is a mapping of amounts, such as dict(gpu_mem=8)")
    return spelled(alternative)  # pyright: ignore[reportUnknownArgumentType]


def _invalid(value: object, reason: str) -> InvalidRequirement:
    return InvalidRequirement(key="any_of", value=repr(value) if value != "" else "", reason=reason)

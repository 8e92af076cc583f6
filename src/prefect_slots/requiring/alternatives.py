"""`any_of(...)`: alternatives in order of preference; a grant is of the first that can be granted.

Amounts are checked when it is made. It becomes a requirement for each call, once callable amounts have been called.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prefect_slots.errors import InvalidRequirement
from prefect_slots.model import Requirement, declare, invalid, spelled


class any_of:  # noqa: N801 - used within `requires(...)`, it reads as words
    """Alternatives in order of preference: `requires(any_of(dict(gpu_mem=8), dict(cpus=8)))`.

    One ticket waits for all of them and is granted the first that fits when its turn comes; `grant.chosen` shows it.
    The request is impossible only if every alternative is. Overtaken too often, it reserves cells for the first that is
    possible on this machine.

    Args:
        alternatives: Mappings of amounts, each with the keywords of `requires`.

    Raises:
        InvalidRequirement: if there is no alternative, or one is no mapping of amounts.
    """

    def __init__(self, *alternatives: Mapping[str, Any]) -> None:
        self.alternatives = tuple(map(_checked, alternatives))
        if not self.alternatives:
            reason = "name at least one alternative, such as dict(gpu_mem=8)"
            raise InvalidRequirement(key="any_of", value="", reason=reason)

    def __repr__(self) -> str:
        return f"any_of({', '.join(map(repr, self.alternatives))})"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the alternatives, the preferred one first."""
        return iter(self.alternatives)


def read_alternatives(given: object) -> any_of | None:
    """Return the alternatives given as `any_of=` or as the first argument of `requires`, also as a list.

    Raises:
        InvalidRequirement: if they are neither.
    """
    if given is None or isinstance(given, any_of):
        return given
    if isinstance(given, (list, tuple)):
        return any_of(*given)  # pyright: ignore[reportUnknownVariableType]
    raise invalid("any_of", given, "alternatives, such as any_of(dict(gpu_mem=8), dict(cpus=8))")


def combined(alternatives: any_of | None, common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the amounts of each alternative, common ones included.

    Raises:
        InvalidRequirement: if an alternative repeats a common amount.
    """
    if alternatives is None:
        return [dict(common)]
    for alternative in alternatives:
        # Neither value may silently win over the other.
        for name in alternative.keys() & common.keys():
            raise invalid("any_of", alternative, f"'{name}' is asked for in all alternatives already")
    return [{**common, **alternative} for alternative in alternatives]


def declare_any(amounts: Iterable[Mapping[str, Any]]) -> Requirement:
    """Return the requirement of these amounts as alternatives, in order of preference.

    Raises:
        InvalidRequirement: see `declare`.
    """
    # Each is declared by itself: alternatives share no demands but those in common, which they repeat.
    return Requirement.any_of([declare(**each) for each in amounts])


def _checked(alternative: object) -> dict[str, Any]:
    if not isinstance(alternative, Mapping) or not all(isinstance(name, str) for name in alternative):  # pyright: ignore[reportUnknownVariableType]
        raise invalid("any_of", alternative, "an alternative is a mapping of amounts, such as dict(gpu_mem=8)")
    return spelled(alternative)  # pyright: ignore[reportUnknownArgumentType]

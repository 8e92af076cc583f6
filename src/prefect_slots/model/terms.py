"""Terms of a request: the words of `requires(...)` beside its amounts, checked in one place.

They stand below resources, because no resource may be named as one of them.
"""

import math
from dataclasses import dataclass

from prefect_slots.errors import InvalidRequirement


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Terms on which a request waits; each field is a keyword of `requires` and an option of `prefect-slots run`.

    Attributes:
        priority: Rank in the queue; a higher number is served first.
        expected_seconds: Estimated seconds of holding, for backfill; `None` if unknown. Never enforced.
        timeout: Seconds of waiting after which the request fails; `None` for no limit.

    Raises:
        InvalidRequirement: if a value is out of its range.
    """

    priority: int = 0
    expected_seconds: float | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        check_seconds(self.timeout)
        expected = self.expected_seconds
        if expected is not None and not (_is_number(expected) and 0 < expected < math.inf):
            raise invalid("expected_seconds", expected, "a number of seconds above 0, or None")
        # `True` is an `int`, and as a priority it is a slip.
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise invalid("priority", self.priority, "a whole number; higher is served first")


def check_seconds(timeout: float | None) -> None:
    """Check the seconds after which a wait or a task is ended.

    Raises:
        InvalidRequirement: if they are neither `None` nor a finite number of at least 0.
    """
    if timeout is not None and not (_is_number(timeout) and 0 <= timeout < math.inf):
        raise invalid("timeout", timeout, "a number of seconds, 0 or more, or None")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def invalid(key: str, value: object, reason: str) -> InvalidRequirement:
    """Return the error of a wrong value under the keyword `key` of `requires`."""
    return InvalidRequirement(key=key, value=repr(value), reason=reason)

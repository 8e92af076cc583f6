"""What submitted calls ask for: worked out where they are submitted.

A decorated function is called beneath its decoration, because the pool asks in its place. With `requires=` beside it
the decoration stays: it is then a request within that grant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from prefect_slots.errors import InvalidRequirement
from prefect_slots.pool.child import Admitted
from prefect_slots.pool.wire import Packed, pack
from prefect_slots.requiring import context
from prefect_slots.requiring.prefect_run import run_id
from prefect_slots.requiring.wrappers import DECLARED, arguments_of, site_of

if TYPE_CHECKING:
    from prefect_slots.acquire.request import Parent
    from prefect_slots.model.requirement import Requirement
    from prefect_slots.requiring.alternatives import any_of
    from prefect_slots.requiring.decorator import requires


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a call asks for.

    Attributes:
        requirement: `None` if it asks for nothing.
        amounts: Of each alternative, as they were asked for.
        expected: Seconds that it will take, by the asker's word, or `None`.
        patience: Seconds of waiting, or `None` for no limit.
        limit: Seconds that it may run, or `None`.
        parent: The grant it is submitted within.
        label: The function, for people.
        run: The flow run that it is for, if any: runs are served in turn.
    """

    requirement: Requirement | None = None
    amounts: tuple[Mapping[str, Any], ...] = ({},)
    priority: int = 0
    expected: float | None = None
    patience: float | None = None
    limit: float | None = None
    parent: Parent | None = None
    label: str = ""
    run: str = ""


class Submission:
    """What the calls of one function ask for, worked out once for all of them where no argument matters.

    Args:
        function: As it was submitted.
        wanted: What was given beside it.
        limit: Seconds that each call may run.

    Raises:
        InvalidRequirement: if `wanted` is no requirement, or `limit` no number of seconds.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        wanted: requires | any_of | Mapping[str, Any] | None,
        limit: float | None,
    ) -> None:
        asked = _requires(wanted)
        self._called = function
        if asked is None:
            asked = _decoration(function)
            self._called = function if asked is None else Admitted(function)
        if limit is not None:
            from prefect_slots.requiring.decorator import checked_timeout

            limit = checked_timeout(limit)
        self._function, self._asked = function, asked
        self._common = Order(limit=limit, parent=context.enclosing(), label=site_of(function))
        if asked is not None:
            self._common = replace(
                self._common,
                priority=asked.priority,
                expected=asked.expected_seconds,
                patience=asked.timeout,
                run=run_id(),
            )
            if not asked.asks_the_call:
                self._common = self._with_amounts(asked, {})

    def order(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Order, Packed]:
        """Return what a call asks for, and the call itself, packed.

        Raises:
            Exception: whatever the function or an argument raises when it is pickled, and what a callable amount does.
        """
        order = self._common
        if self._asked is not None and self._asked.asks_the_call:
            order = self._with_amounts(self._asked, arguments_of(self._function, args, kwargs))
        return order, pack((self._called, args, kwargs))

    def _with_amounts(self, asked: requires, arguments: Mapping[str, Any]) -> Order:
        amounts = asked.amounts_of(arguments)
        return replace(self._common, requirement=asked.requirement(amounts), amounts=tuple(amounts))


def _requires(wanted: requires | any_of | Mapping[str, Any] | None) -> requires | None:
    if wanted is None:
        return None
    from prefect_slots.requiring.alternatives import any_of
    from prefect_slots.requiring.decorator import requires

    if isinstance(wanted, any_of):
        return requires(wanted)
    if isinstance(wanted, requires):
        return wanted
    if not isinstance(wanted, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequirement(key="", value=repr(wanted), reason="write requires=dict(gpu_mem=8)")
    try:
        # With the types, or `True`, which is no amount, would be found where `1` was given before.
        return _declared(tuple((name, type(value), value) for name, value in wanted.items()))
    except TypeError:  # a value that is not hashable: a mapping of licences
        return requires(**wanted)


@lru_cache(maxsize=256)
def _declared(items: tuple[tuple[str, type[Any], Any], ...]) -> requires:
    from prefect_slots.requiring.decorator import requires

    return requires(**{name: value for name, _, value in items})


def _decoration(function: Callable[..., Any]) -> requires | None:
    """Return what a function was decorated with, if the decoration is the outermost of it."""
    asked = getattr(function, DECLARED, None)
    # Another decorator around ours copies the mark, and what it wraps still has it.
    if asked is None or getattr(getattr(function, "__wrapped__", None), DECLARED, None) is asked:
        return None
    return asked

"""The requests of submitted calls, made where they are submitted.

A decorated function is called beneath its decoration, because the pool asks in its place. With `requires=` beside it
the decoration stays: it is then a request within that grant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from prefect_slots.errors import InvalidRequirement
from prefect_slots.model.request import Request
from prefect_slots.pool.child import Admitted
from prefect_slots.pool.wire import Packed, pack
from prefect_slots.requiring import context
from prefect_slots.requiring.wrappers import arguments_of, decoration, site_of

# A task process that only passes the pool on must not pay 0.2 s for the decorator's imports.
if TYPE_CHECKING:
    from prefect_slots.requiring.alternatives import any_of
    from prefect_slots.requiring.decorator import requires

Wanted: TypeAlias = "requires | any_of | Mapping[str, Any] | None"


class Submission:
    """The requests of one function's calls: one for all of them if no amount depends on the call.

    Args:
        function: The function as submitted.
        wanted: The `requires=` beside it, if any.
        limit: Seconds of running for each call, or `None`.

    Raises:
        InvalidRequirement: if `wanted` is no requirement, or `limit` no number of seconds.
    """

    def __init__(self, function: Callable[..., Any], wanted: Wanted, limit: float | None) -> None:
        asked = _requires(wanted)
        self._called = function
        if asked is None:
            asked = decoration(function)
            self._called = function if asked is None else Admitted(function)
        self._function, self._asked = function, asked
        self._request = Request(limit=limit, parent=context.enclosing(), label=site_of(function))
        if asked is not None and not asked.asks_the_call:
            self._request = self._requested(asked, {})

    def request(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Request, Packed]:
        """Return the request of a call, and the call itself, packed.

        Raises:
            Exception: any error of pickling the function or an argument, or of a callable amount.
        """
        request = self._request
        if self._asked is not None and self._asked.asks_the_call:
            request = self._requested(self._asked, arguments_of(self._function, args, kwargs))
        return request, pack((self._called, args, kwargs))

    def _requested(self, asked: requires, arguments: Mapping[str, Any]) -> Request:
        return replace(asked.request(self._request.label, arguments), limit=self._request.limit)


def _requires(wanted: Wanted) -> requires | None:
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
    except TypeError:  # a value that is not hashable: a mapping of licenses
        return requires(**wanted)


# The check of a requirement takes longer than all else of a submit; a program has a few kinds of calls.
@lru_cache(maxsize=256)
def _declared(items: tuple[tuple[str, type[Any], Any], ...]) -> requires:
    from prefect_slots.requiring.decorator import requires

    return requires(**{name: value for name, _, value in items})

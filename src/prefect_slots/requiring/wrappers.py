"""Wrappers that put a grant around the four kinds of functions, around Prefect tasks and flows.

Prefect inspects a wrapper: it must be of the function's kind, and have a code object of its own that names the
function's file. Prefect's task key is a hash of the code, and wrappers would share one.
"""

import copy
import functools
import hashlib
import inspect
import marshal
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import FunctionType
from typing import Any, Protocol, TypeVar

from prefect_slots.errors import InvalidRequirement
from prefect_slots.requiring.context import inside
from prefect_slots.requiring.grant import Grant

F = TypeVar("F", bound=Callable[..., Any])
# The attribute of a decorated function that holds its `requires`, for a pool that asks in its place.
_DECLARED = "__prefect_slots_requires__"


class Granting(Protocol):
    """A declaration of needs, `requires`, as far as wrappers know it: `decorator` imports this module."""

    def granted(self, site: str, arguments: Mapping[str, Any]) -> AbstractContextManager[Grant]:
        """Hold the grant for one call."""
        ...

    def granted_async(self, site: str, arguments: Mapping[str, Any]) -> AbstractAsyncContextManager[Grant]:
        """Hold the grant for one call of a coroutine."""
        ...


def wrap(asked: Granting, target: F) -> F:
    """Return `target` with every call under a grant of `asked`.

    Raises:
        InvalidRequirement: if `target` cannot be called.
    """
    if isinstance(target, (staticmethod, classmethod)):
        kind = type(target)
        return kind(wrap(asked, target.__func__))  # pyright: ignore[reportReturnType]
    if _is_prefect_object(target):
        # A copy: the undecorated task may be in use elsewhere.
        wrapped: Any = copy.copy(target)
        wrapped.fn = wrap(asked, wrapped.fn)
        return wrapped
    if isinstance(target, type) or not callable(target):
        raise InvalidRequirement(key="", value=repr(target), reason="it decorates functions, tasks and flows")
    site = site_of(target)
    # A callable object shows its kind by its class's `__call__`.
    told_by = target if inspect.isroutine(target) or isinstance(target, functools.partial) else type(target).__call__
    if inspect.isasyncgenfunction(told_by):
        wrapper = _around_async_generator(asked, target, site)
    elif inspect.iscoroutinefunction(told_by):
        wrapper = _around_coroutine(asked, target, site)
    elif inspect.isgeneratorfunction(told_by):
        wrapper = _around_generator(asked, target, site)
    else:
        wrapper = _around_function(asked, target, site)
    if isinstance(wrapper, FunctionType) and isinstance(target, FunctionType):
        wrapper.__code__ = _own_code(wrapper, target)
    setattr(wrapper, _DECLARED, asked)
    return wrapper  # pyright: ignore[reportReturnType]


def decoration(function: Callable[..., Any]) -> Any:
    """Return the `requires` object that a function was decorated with, if it is the outermost decoration, or `None`."""
    asked = getattr(function, _DECLARED, None)
    # Another decorator around ours copies the mark, and the function that it wraps still has it.
    if asked is None or getattr(getattr(function, "__wrapped__", None), _DECLARED, None) is asked:
        return None
    return asked


def _is_prefect_object(target: object) -> bool:
    # Importing Prefect takes seconds, and without it nothing can be a task.
    if "prefect" not in sys.modules:
        return False
    from prefect import Flow, Task

    return isinstance(target, (Task, Flow))


def _own_code(wrapper: FunctionType, function: FunctionType) -> Any:
    # Version 2: later versions of the format record which objects are shared, which differs from process to process.
    digest = hashlib.sha256(marshal.dumps(function.__code__, 2)).hexdigest()
    code = wrapper.__code__
    return code.replace(
        co_consts=(*code.co_consts, digest),
        co_filename=function.__code__.co_filename,
        co_firstlineno=function.__code__.co_firstlineno,
    )


def _around_function(asked: Granting, function: Callable[..., Any], site: str) -> Callable[..., Any]:

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with asked.granted(site, arguments_of(function, args, kwargs)) as grant, inside(grant):
            return function(*args, **kwargs)

    return call


def _around_coroutine(asked: Granting, function: Callable[..., Any], site: str) -> Callable[..., Any]:

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        async with asked.granted_async(site, arguments_of(function, args, kwargs)) as grant:
            with inside(grant):
                return await function(*args, **kwargs)

    return call


def _around_generator(asked: Granting, function: Callable[..., Any], site: str) -> Callable[..., Any]:

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with asked.granted(site, arguments_of(function, args, kwargs)) as grant:
            return (yield from _driven(function(*args, **kwargs), grant))

    return call


def _around_async_generator(asked: Granting, function: Callable[..., Any], site: str) -> Callable[..., Any]:

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        async with asked.granted_async(site, arguments_of(function, args, kwargs)) as grant:
            inner = function(*args, **kwargs)
            step: Callable[[], Any] = inner.__anext__
            while True:
                # Between two values the generator's consumer runs, which must not draw on this grant.
                try:
                    with inside(grant):
                        value = await step()
                except StopAsyncIteration:
                    return
                try:
                    sent = yield value
                except BaseException as error:
                    step = functools.partial(inner.athrow, error)
                else:
                    step = functools.partial(inner.asend, sent)

    return call


def _driven(inner: Generator[Any, Any, Any], grant: Grant) -> Generator[Any, Any, Any]:
    step: Callable[[], Any] = functools.partial(next, inner)
    while True:
        try:
            with inside(grant):
                value = step()
        except StopIteration as stop:
            return stop.value
        try:
            sent = yield value
        except BaseException as error:
            step = functools.partial(inner.throw, error)
        else:
            step = functools.partial(inner.send, sent)


def arguments_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's arguments by name, defaults included; none where they do not fit."""
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return {}  # the call itself raises the error of its arguments
    bound.apply_defaults()
    return dict(bound.arguments)


def site_of(function: Callable[..., Any]) -> str:
    """Return a function's name, file and line for people: `"infer (tasks.py:12)"`."""
    name = getattr(function, "__qualname__", repr(function))
    code = getattr(function, "__code__", None)
    return f"{name} ({code.co_filename.rpartition('/')[2]}:{code.co_firstlineno})" if code else f"{name} ()"

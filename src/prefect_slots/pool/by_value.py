"""Pickles by value: functions and classes that the receiver cannot import, with the source that a traceback shows.

A function of a script, a closure, a lambda and a notebook cell travel so. Imported only when such a value is sent or
received, because cloudpickle takes 20 ms to import.
"""

import io
import linecache
import os
import pickle
from collections.abc import Callable
from types import CodeType
from typing import Any

import cloudpickle

_TABLE: Any = cloudpickle.Pickler.dispatch_table
_reduce_code = _TABLE[CodeType]


def dumps(value: object, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """Return the pickle of a value; `pickle.loads` reads it.

    Args:
        value: Any object.
        buffer_callback: As in `pickle.dumps`: called with each out-of-band buffer, true if the pickle is to hold it.

    Raises:
        Exception: the value's own error when it is pickled.
    """
    file = io.BytesIO()
    _Pickler(file, 5, buffer_callback).dump(value)
    return file.getvalue()


def _code_with_source(code: CodeType) -> tuple[Any, ...]:
    """Reduce a code object as cloudpickle does, with its file's name and, if need be, its file's lines beside it."""
    # cloudpickle 3.1.3 and later replace the name by `<dynamic-code>`, to make equal functions equal pickles: the
    # task's traceback would show no line of the user's.
    name = code.co_filename
    # A notebook cell is no file: the task process would find its lines nowhere.
    lines = None if os.path.exists(name) else linecache.getlines(name)  # noqa: PTH110 - often no path at all
    return _code_from_source, (name, lines, *_reduce_code(code))


def _code_from_source(
    name: str, lines: list[str] | None, make: Callable[..., CodeType], arguments: tuple[Any, ...]
) -> CodeType:
    """Return the code object that was reduced, and have its lines ready for tracebacks."""
    if lines:
        # Without a time of change, `linecache.checkcache` keeps the entry though there is no such file.
        linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
    return make(*arguments).replace(co_filename=name)


class _Pickler(cloudpickle.Pickler):
    dispatch_table = _TABLE.new_child({CodeType: _code_with_source})

"""The grant of this thread, task or child process: what a nested request is served from.

Context variables carry it within a process (Prefect copies them into the threads of `.submit`); the variable
`PREFECT_SLOTS_GRANT` carries it to child processes. A forked child has no part in its parent's grant.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect_slots.model.request import Parent
    from prefect_slots.requiring.grant import Grant

_innermost: ContextVar[Grant | None] = ContextVar("prefect_slots_grant", default=None)
_inherited: Callable[[], Grant | None] | None = None


def current_grant() -> Grant | None:
    """Return the innermost grant held by the calling code, or `None`."""
    grant = _innermost.get()
    while grant is not None and (grant.ended or grant.pid != os.getpid()):
        grant = grant.parent
    return _inherited() if grant is None and _inherited is not None else grant


def inherit(grant: Callable[[], Grant | None]) -> None:
    """Have what `grant` returns, asked for when it is needed, enclose all of this process: a pool's task process."""
    global _inherited
    _inherited = grant


def enter(grant: Grant) -> Token[Grant | None]:
    """Make `grant` the innermost one of this context."""
    return _innermost.set(grant)


def leave(token: Token[Grant | None]) -> None:
    """Take back what `enter` did; in another context than that, there is nothing to take back."""
    with suppress(ValueError):
        _innermost.reset(token)


def enclosing() -> Parent | None:
    """Return the grant that a new request is nested in: this context's, else the one this process was started under."""
    # Not before it is needed: every task process imports this module.
    from prefect_slots.model.book import TOKEN
    from prefect_slots.model.request import Parent

    grant = current_grant()
    return Parent.from_token(grant.token if grant is not None else os.environ.get(TOKEN, ""))

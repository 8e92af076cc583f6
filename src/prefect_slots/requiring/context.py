"""The grant around this thread, task or child process: the source of nested requests.

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
    from prefect_slots.model import Parent
    from prefect_slots.requiring.grant import Grant

_innermost: ContextVar[Grant | None] = ContextVar("prefect_slots_grant", default=None)
_inherited: Callable[[], Grant | None] | None = None


def current_grant() -> Grant | None:
    """Return the innermost grant held by the calling code, or `None`."""
    grant = _innermost.get()
    # A forked child inherits the variable, and a copied context may outlive its grant.
    while grant is not None and (grant.ended or grant.pid != os.getpid()):
        grant = grant.parent
    return _inherited() if grant is None and _inherited is not None else grant


def inherit(grant: Callable[[], Grant | None]) -> None:
    """Let a pool's task process run under the grant that `grant` returns, which is called when it is needed."""
    global _inherited
    _inherited = grant


def enter(grant: Grant) -> Token[Grant | None]:
    """Make `grant` the innermost one of this context."""
    return _innermost.set(grant)


def leave(token: Token[Grant | None]) -> None:
    """Undo `enter`."""
    # A generator that another thread ends runs in another context, in which there is nothing to undo.
    with suppress(ValueError):
        _innermost.reset(token)


class inside:  # noqa: N801 - used as `with inside(grant)`
    """A block in which a grant is the innermost one; a class, since a generator would change `StopIteration`."""

    def __init__(self, grant: Grant) -> None:
        self._grant = grant

    def __enter__(self) -> None:
        """Make the grant the innermost one."""
        self._token = enter(self._grant)

    def __exit__(self, *exc: object) -> None:
        """Take it back."""
        leave(self._token)


def enclosing() -> Parent | None:
    """Return the grant that a new request is nested in: this context's, else the one this process was started under."""
    # Imported when needed: every task process imports this module, and few make requests.
    from prefect_slots.model import TOKEN, Parent

    grant = current_grant()
    return Parent.from_token(grant.token if grant is not None else os.environ.get(TOKEN, ""))

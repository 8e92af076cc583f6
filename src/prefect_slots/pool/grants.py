"""Grants for a pool's tasks: asked for by the pool's own process, which holds them for the task processes.

A grant serves the tasks of its queue one after another for a short turn, and longer while giving it back could help
nobody: no-op tasks then cost the ledger next to nothing, and whoever waits elsewhere waits at most a turn and a task
longer. See `scheduling.lasting`.
"""

from __future__ import annotations

import concurrent.futures
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from prefect_slots.acquire import client
from prefect_slots.acquire.client import Target
from prefect_slots.acquire.outcome import Held
from prefect_slots.errors import SlotsError
from prefect_slots.model.request import Request
from prefect_slots.model.resource import GPU_MEM, MEM
from prefect_slots.pool.pinning import Pin, pin_of
from prefect_slots.requiring.grant import Grant

if TYPE_CHECKING:
    from prefect_slots.pool.process import Process

_MEMORY: Final = (GPU_MEM, MEM)


@dataclass(frozen=True, eq=False)
class PoolGrant:
    """What a task runs under.

    Attributes:
        pin: What its process is bound to.
        token: What a request within the task draws on; empty for nothing.
        folder: The state folder of the ledger that the token is of.
        sent: The grant as the task's `current_grant()` shows it, pickled.
        id: What is to be given back when the task has ended; empty if it is another's.
    """

    pin: Pin = Pin()  # noqa: RUF009 - frozen
    token: str = ""
    folder: str = ""
    sent: bytes | None = None
    id: str = ""
    held: Held | None = None

    @property
    def memory(self) -> str:
        """The grant that the task runs under, if some memory is part of it; else empty."""
        held = self.held
        return held.id if held is not None and any(cell.resource in _MEMORY for cell, _ in held.holdings) else ""

    def lent(self) -> PoolGrant:
        """Return the same for a task within, which gives nothing back."""
        return replace(self, id="")


class GrantClient:
    """What a pool asks of its machine's ledger.

    Args:
        target: Which ledger; `None` if nothing is coordinated, and so nothing asked for.
    """

    def __init__(self, target: Target | None) -> None:
        self._maybe_target = target
        self._asked: dict[str, concurrent.futures.Future[Held]] = {}

    @property
    def folder(self) -> Path | None:
        """The ledger's state folder, if there is a ledger."""
        return self._maybe_target.folder if self._maybe_target is not None else None

    @property
    def _target(self) -> Target:
        assert self._maybe_target is not None
        return self._maybe_target

    def ask(
        self,
        ticket: str,
        request: Request,
        answer: Callable[[PoolGrant | BaseException], None],
    ) -> None:
        """Ask for a grant; `answer` is told it, or why there is none, in the engine's thread."""
        # The task's own alarm ends its waiting: the queue's ticket may serve another task of the queue by then.
        wanted = replace(request, id=ticket, timeout=None, for_children=True)
        asked = client.begin(self._target, wanted)
        self._asked[ticket] = asked
        asked.add_done_callback(partial(self._answered, ticket, request, answer))

    def _answered(
        self,
        ticket: str,
        request: Request,
        answer: Callable[[PoolGrant | BaseException], None],
        asked: concurrent.futures.Future[Held],
    ) -> None:
        self._asked.pop(ticket, None)
        if asked.cancelled():
            return
        error = asked.exception()
        if error is not None:
            client.forget(self._target, ticket)
            answer(error)
            return
        held = asked.result()
        grant = Grant(held, self._target, request.label, None, request.amounts)
        sent = pickle.dumps((held, request.amounts))
        answer(PoolGrant(pin_of(grant), grant.token, str(held.folder), sent, grant.id, held))

    def withdraw(self, ticket: str) -> None:
        """End a request or grant, whatever state it is in."""
        asked = self._asked.pop(ticket, None)
        if asked is not None:
            asked.cancel()
        client.forget(self._target, ticket)

    def give_back(self, grant: PoolGrant) -> str | None:
        """Give a grant back, and wait until its cells are free.

        Returns:
            A limit of which others could, for a while, take what it held; `None` if all went well.
        """
        return client.release(self._target, grant.id)

    def note_serving(self, process: Process, before: PoolGrant, grant: PoolGrant) -> None:
        """Let the ledger know whose memory a process's is from now on; what it served before may have ended."""
        with suppress(psutil.Error):
            if grant.memory and grant.token != before.token:
                client.note_serving(self._target, process.pid, process.started, grant.memory)
            elif before.memory and not grant.memory and not before.id:
                client.note_serving(self._target, process.pid, process.started, "")

    def was_ended(self, grant: PoolGrant) -> bool:
        """Tell whether the process was ended because it used more memory than was declared for it."""
        with suppress(SlotsError):
            return bool(grant.memory) and client.was_ended(self._target, grant.memory)
        return False

    def may_go_on(self, grant: PoolGrant, ticket: str | None) -> bool:
        """Tell whether a grant may serve another task of its queue although its turn is over."""
        return client.may_go_on(self._target, grant.id, ticket)

    def reason(self, ticket: str) -> str:
        """Say why a queue waits now."""
        return client.reason(self._target, ticket)

    @property
    def is_strict(self) -> bool:
        """Whether a task fails if others could take what it held: then each has a grant of its own."""
        target = self._maybe_target
        return target is not None and target.settings.on_lease_lost == "fail" and target.coordination.url is not None

    def lock(self) -> int | None:
        """Return the lock that proves this process alive, if there is a ledger."""
        return client.owner_descriptor(self._target) if self._maybe_target is not None else None

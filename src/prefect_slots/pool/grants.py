"""Grants for a pool's tasks: requested and held by the pool's own process, used by its task processes.

A grant serves the tasks of its queue one after another for a short turn, and longer while nobody else could use its
cells: no-op tasks cost the ledger next to nothing, and other requests wait a turn and a task longer at most. See
`scheduling.grant_reuse`.
"""

import concurrent.futures
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import psutil

from prefect_slots.acquire import client, tickets
from prefect_slots.errors import SlotsError
from prefect_slots.model import GPU_MEM, MEM, Request
from prefect_slots.pool.process import Pin, Process, pin_of
from prefect_slots.requiring.grant import Grant

# Measured use of these two is held against the grant: the ledger must know which process works under which grant.
_MEMORY = (GPU_MEM, MEM)


@dataclass(frozen=True, eq=False)
class PoolGrant:
    """A grant as its tasks use it; without any, the surroundings of a task that asks for nothing.

    Attributes:
        pin: Pin of the task process.
        token: Enclosing grant of requests within the task; empty for none.
        folder: State folder of the token's ledger.
        sent: The grant for the task's `current_grant()`, pickled.
        id: Grant to be given back when the task has ended; empty if it is the grant of another task.
    """

    pin: Pin = Pin()  # noqa: RUF009 - frozen
    token: str = ""
    folder: str = ""
    sent: bytes | None = None
    id: str = ""
    held: tickets.Held | None = None

    @property
    def memory(self) -> str:
        """Id of the grant if memory is part of it; else empty."""
        held = self.held
        return held.id if held is not None and any(cell.resource in _MEMORY for cell, _ in held.holdings) else ""

    def lent(self) -> Self:
        """Return the same for a task within, which gives nothing back."""
        return replace(self, id="")


class GrantClient:
    """A pool's requests to its machine's ledger.

    Args:
        target: The ledger and its coordination; `None` without coordination: then no method but `lock` is called.
    """

    def __init__(self, target: client.Target | None) -> None:
        self._maybe_target = target
        self._asked: dict[str, concurrent.futures.Future[tickets.Held]] = {}

    @property
    def folder(self) -> Path | None:
        """The ledger's state folder, if there is a ledger."""
        return self._maybe_target.folder if self._maybe_target is not None else None

    @property
    def is_strict(self) -> bool:
        """True if a task fails if others could take its cells meanwhile: then each task has a grant of its own."""
        target = self._maybe_target
        return target is not None and target.settings.on_lease_lost == "fail" and target.coordination.url is not None

    @property
    def _target(self) -> client.Target:
        assert self._maybe_target is not None
        return self._maybe_target

    def ask(self, ticket: str, request: Request, answer: Callable[[PoolGrant | BaseException], None]) -> None:
        """Request a grant; `answer` is called with it, or with the refusal, in the engine's thread."""

        def answered(asked: concurrent.futures.Future[tickets.Held]) -> None:
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

        # The task's own alarm ends its waiting: the queue's ticket may serve another task of the queue by then.
        wanted = replace(request, id=ticket, timeout=None, for_children=True)
        asked = self._asked[ticket] = client.begin(self._target, wanted)
        asked.add_done_callback(answered)

    def withdraw(self, ticket: str) -> None:
        """Start ending a request or grant in any state."""
        asked = self._asked.pop(ticket, None)
        if asked is not None:
            asked.cancel()
        client.forget(self._target, ticket)

    def give_back(self, grant: PoolGrant) -> str | None:
        """Give a grant back, and wait until its cells are free.

        Returns:
            A limit whose slots others could take for a while although the grant held them; `None` if all went well.
        """
        return client.release(self._target, grant.id)

    def note_serving(self, process: Process, before: PoolGrant, grant: PoolGrant) -> None:
        """Start noting in the ledger that a process's memory counts for another grant from now on."""
        # A process that has ended meanwhile uses no memory.
        with suppress(psutil.Error):
            if grant.memory and grant.token != before.token:
                client.note_serving(self._target, process.pid, process.started, grant.memory)
            # A grant that was given back took its note with it.
            elif before.memory and not grant.memory and not before.id:
                client.note_serving(self._target, process.pid, process.started, "")

    def was_ended(self, grant: PoolGrant) -> bool:
        """Return whether the grant's process was ended because it used more memory than declared."""
        # The task is dead for either reason: an unreadable ledger must not hide it.
        with suppress(SlotsError):
            return bool(grant.memory) and client.was_ended(self._target, grant.memory)
        return False

    def may_go_on(self, grant: PoolGrant, ticket: str | None) -> bool:
        """Return whether a grant may serve another task of its queue although its turn is over."""
        return client.may_go_on(self._target, grant.id, ticket)

    def reason(self, ticket: str) -> str:
        """Return the reason for which a queue waits now."""
        return client.reason(self._target, ticket)

    def lock(self) -> int | None:
        """Return the descriptor of the lock that proves this process alive, if there is a ledger."""
        return client.owner_descriptor(self._target) if self._maybe_target is not None else None

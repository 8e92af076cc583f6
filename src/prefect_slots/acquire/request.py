"""What a request is, and what becomes of it: asked, waiting, held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_slots.errors import NotFoundYet, UnknownResource

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from prefect_slots.ledger.registry import Registered
    from prefect_slots.model.book import Holding
    from prefect_slots.model.requirement import Requirement


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The grant that encloses a request, and the ledger it stands in: another machine's grant encloses nothing here."""

    ledger: str
    grant: str


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request.

    Attributes:
        id: New for every request; the ticket's, then the grant's.
        expected: Seconds for which it will be held, by the asker's word; `None` is not known.
        timeout: Seconds of waiting, or `None` for no limit.
        label: Who asks, for people: the function and where it is called.
        parent: The grant that encloses the request.
        run: For whom it asks: runs are served in turn. Empty means the process.
        for_children: Whether task processes of this one are to use what is granted, and it does not itself.
    """

    id: str
    requirement: Requirement
    priority: int = 0
    expected: float | None = None
    timeout: float | None = None
    label: str = ""
    parent: Parent | None = None
    run: str = ""
    for_children: bool = False


@dataclass(frozen=True, kw_only=True)
class Held:
    """What was granted: exact cells, how long it took, and which of the alternatives it is."""

    id: str
    holdings: tuple[Holding, ...]
    registered: Registered
    ledger_id: str
    folder: Path
    waited: float
    chosen: int = 0


@dataclass(frozen=True)
class Waiting:
    """The request stands in the queue."""

    reason: str


def missing(name: str, registered: Registered, looked_for: Collection[str]) -> NotFoundYet | UnknownResource:
    """Return the error of a request for what the machine does not have: one to try again, or one for good."""
    machine = registered.machine or ""
    if name in looked_for:
        return NotFoundYet(name=name, machine=machine)
    return UnknownResource(name=name, known=registered.names, machine=machine)

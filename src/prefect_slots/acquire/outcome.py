"""Outcomes of a request: a grant, a place in the queue, or the error of a resource that the machine has not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_slots.errors import NotFoundYet, UnknownResource

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from prefect_slots.ledger.registry import Registered
    from prefect_slots.model.book import Holding


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

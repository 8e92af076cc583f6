"""What devices and licence servers show of others' use, cell by cell: what was seen, when, and what it blocks.

What it blocks stands in the cell itself (`outside`), beside what the server counts (`foreign_use`). Times are Unix
times.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect_slots.ledger.sql import Tables
from prefect_slots.model.book import CellId

Samples = tuple[tuple[float, int], ...]


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What was seen of one cell.

    Attributes:
        used: What others use beyond what the server counts; `None` where that was never told. It stays as long as
            nothing new is told.
        seen_at: When that was last told.
        asked_at: When it was last asked for.
        peak: Times and amounts that may still be the most.
        counted: Times and what the server counted of others' use then.
        misses: How often in a row nobody answered.
        why: Why nothing is told now; empty where it is.
    """

    cell: CellId
    used: int | None = None
    seen_at: float | None = None
    asked_at: float = 0.0
    peak: Samples = ()
    counted: Samples = ()
    misses: int = 0
    why: str = ""


def read(tables: Tables) -> Mapping[CellId, Outside]:
    """Return what was seen of every cell that was ever looked at."""
    rows = tables.all(
        "SELECT resource, number, used, seen_at, asked_at, peak, counted, misses, why FROM outside ORDER BY 1, 2"
    )
    return {CellId(row[0], row[1]): _outside(*row) for row in rows}


def _outside(resource: str, number: int, *values: Any) -> Outside:
    used, seen_at, asked_at, peak, counted, misses, why = values
    return Outside(
        cell=CellId(resource, number),
        used=used,
        seen_at=seen_at,
        asked_at=asked_at,
        peak=_samples(peak),
        counted=_samples(counted),
        misses=misses,
        why=why,
    )


def _samples(text: str) -> Samples:
    return tuple((time, amount) for time, amount in json.loads(text))


def write(tables: Tables, seen: Outside) -> None:
    """Write what was seen of a cell in the place of what was seen before."""
    tables.run(
        "INSERT OR REPLACE INTO outside VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        *(*seen.cell, seen.used, seen.seen_at, seen.asked_at, json.dumps(seen.peak), json.dumps(seen.counted)),
        *(seen.misses, seen.why),
    )


def block(tables: Tables, cell: CellId, amount: int) -> bool:
    """Keep that much of a cell from being granted, beside what the server counts; tell whether that is new."""
    return bool(
        tables.run("UPDATE cell SET outside=? WHERE resource=? AND number=? AND outside<>?", amount, *cell, amount)
    )

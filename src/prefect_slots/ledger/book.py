"""The book as rows: the view that scheduling decides on, and the writing of its changes.

A view shows only the front of each line, so that its cost grows with the number of shapes, not of waiting tickets.
"""

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

from prefect_slots.ledger import leases, sql
from prefect_slots.model import Exclusive, Request, Requirement, gpu
from prefect_slots.model import book as model

# Columns of `shape s` that `shape_of` reads, in its order.
SHAPE = "s.requirement, s.priority, s.expected, s.parent, s.root, s.source"
# Rows of the timeline that are kept: days of usual work, in one or two megabytes of the file.
HISTORY = 10_000


def read_book(tables: sql.Tables, front: int = model.FRONT) -> model.Book:
    """Return the cells, the grants and the front of each line: every reserver and the first `front` others."""
    return model.Book(cells=_cells(tables), grants=_grants(tables), lines=_lines(tables, front))


def _cells(tables: sql.Tables) -> tuple[model.CellState, ...]:
    # A broken cell offers nothing and keeps its capacity: it may come back, so requests for it wait and do not fail.
    rows = tables.all(
        "SELECT resource, number, capacity, MAX(foreign_use + outside, lost * capacity), exclusive, key, label, "
        "compute_capability, MIN(display, foreign_use + outside) FROM cell "
        "WHERE present ORDER BY 1, 2"
    )
    return _cell_states(tuple(rows))


# Parsed once: every grant of the machine waits while a transaction reads the book, and these rows hardly change.


@lru_cache(maxsize=16)
def _cell_states(rows: tuple[tuple[str, int, int, int, int, str, str, str, int], ...]) -> tuple[model.CellState, ...]:
    return tuple(
        model.CellState(
            id=model.CellId(resource, number),
            capacity=Exclusive(capacity) if exclusive else capacity,
            foreign=foreign,
            lone=gpu.is_lone(key),
            label=label,
            compute_capability=capability,
            display=display,
        )
        for resource, number, capacity, foreign, exclusive, key, label, capability, display in rows
    )


@lru_cache(maxsize=1024)
def _plain_shape(requirement: str, priority: int, expected: float | None) -> model.Shape:
    return model.Shape(requirement=Requirement.from_data(json.loads(requirement)), priority=priority, expected=expected)


def read_grant(tables: sql.Tables, grant: str) -> model.Grant:
    """Return one grant.

    Raises:
        LookupError: if it is gone.
    """
    for found in _grants(tables, "WHERE h.id=?", grant):
        return found
    raise LookupError(f"grant {grant} is not in the ledger")


def _grants(tables: sql.Tables, where: str = "", *values: object) -> tuple[model.Grant, ...]:
    grants: dict[str, model.Grant] = {}
    for row in tables.all(
        "SELECT h.id, resource, number, amount, requirement, priority, expected, parent, root, source, "
        "seq, turn, run, chosen, overtaken, ends, closed "
        f"FROM held h JOIN holding c ON c.held=h.id {where} ORDER BY seq, resource, number",
        *values,
    ):
        holding = model.Holding(model.CellId(row[1], row[2]), row[3])
        known = grants.get(row[0])
        if known is not None:
            grants[row[0]] = replace(known, holdings=(*known.holdings, holding))
            continue
        shape = shape_of(row[0], *row[4:10])
        grants[row[0]] = model.Grant(row[0], shape, (holding,), *row[10:16], closed=bool(row[16]))
    return tuple(grants.values())


def _lines(tables: sql.Tables, front: int) -> tuple[model.Line, ...]:
    lines: list[model.Line] = []
    for row in tables.all(f"SELECT key, overtakes, {SHAPE} FROM shape s ORDER BY key"):
        select = (
            "SELECT id, seq, turn, run, base, reserved FROM ticket WHERE shape=? AND blocked_on IS NULL AND reserved"
        )
        waiting = tables.all(f"{select} IS NULL ORDER BY turn, seq LIMIT ?", row[0], front + 1)
        tickets = [_ticket(*values) for values in (*tables.all(f"{select} IS NOT NULL", row[0]), *waiting[:front])]
        if tickets:
            tickets.sort(key=lambda ticket: ticket.slot)
            shape = shape_of(tickets[0].id, *row[2:])
            truncated = len(waiting) > front
            last = _last(tables, row[0], tickets[-1].slot) if truncated else None
            lines.append(
                model.Line(shape=shape, overtakes=row[1], tickets=tuple(tickets), truncated=truncated, last=last)
            )
    return tuple(lines)


def _last(tables: sql.Tables, shape: str, shown: model.Slot) -> model.Slot:
    hidden = tables.one(
        "SELECT turn, seq FROM ticket WHERE shape=? AND blocked_on IS NULL AND reserved IS NULL "
        "ORDER BY turn DESC, seq DESC LIMIT 1",
        shape,
    )
    return max(shown, model.Slot(*hidden)) if hidden else shown


def tails(tables: sql.Tables, run: str, priority: int) -> tuple[tuple[str, int], ...]:
    """Return the last turn of a run's waiting tickets in each line of one priority, by the line's key."""
    found = tables.all(
        "SELECT key, (SELECT MAX(turn) FROM ticket WHERE run=? AND shape=key AND blocked_on IS NULL) AS tail "
        "FROM shape WHERE priority=? AND parent IS NULL AND tail IS NOT NULL",
        *(run, priority),
    )
    return tuple((key, tail) for key, tail in found)


def write(tables: sql.Tables, change: model.Change, request: Request | None) -> None:
    """Write one change; a new ticket is the actor's, for `request`."""
    match change:
        case model.Queued(shape=shape, ticket=ticket):
            _queue(tables, shape, ticket, request)
        case model.Granted(grant=grant):
            _hold(tables, grant)
        case model.Dequeued(ticket=ticket):
            _dequeue(tables, ticket)
        case model.Refused(ticket=ticket):
            _refuse(tables, ticket)
        case model.Closed(grant=grant):
            tables.run("UPDATE held SET closed=1 WHERE id=?", grant)
        case model.Freed(grant=grant):
            _free(tables, grant)
        case model.SteppedAside(grant=grant, blocked_on=limit):
            _step_aside(tables, grant, limit)
        case model.Counted(shape=shape, overtakes=overtakes):
            tables.run("UPDATE shape SET overtakes=? WHERE key=?", overtakes, shape.key)
        case model.Reserved(ticket=ticket, cells=cells):
            tables.run("UPDATE ticket SET reserved=? WHERE id=?", _dump(cells) if cells else None, ticket)


def _queue(tables: sql.Tables, shape: model.Shape, ticket: model.Ticket, request: Request | None) -> None:
    _shape_row(tables, shape)
    # A ticket that steps back from aside has a row; a new one has none.
    resumed = tables.run(
        "UPDATE ticket SET blocked_on=NULL, turn=?, base=?, reserved=NULL WHERE id=?",
        *(ticket.turn, ticket.base, ticket.id),
    )
    if not resumed:
        if request is None:
            raise ValueError(f"ticket {ticket.id} is new, and its request is not given")
        tables.run(
            "INSERT INTO ticket VALUES (?, ?, ?, ?, ?, ?, NULL, ?, ?, ?, NULL, 0, 0, ?)",
            *(ticket.id, ticket.seq, ticket.turn, ticket.run, shape.key, ticket.base),
            *(tables.actor, request.label, tables.now, request.for_children),
        )


def _shape_row(tables: sql.Tables, shape: model.Shape) -> None:
    tables.run(
        "INSERT INTO shape (key, overtakes, requirement, priority, expected, parent, root, source) "
        "VALUES (?, 0, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        *(shape.key, *_columns(shape)),
    )


def _columns(shape: model.Shape) -> tuple[object, ...]:
    nesting = shape.nesting
    own = (nesting.parent, nesting.root, nesting.source) if nesting else (None, None, None)
    return json.dumps(shape.requirement.to_data()), shape.priority, shape.expected, *own


# A shape's row goes with its last ticket, or it would count overtakes of a line that has long been empty.
def _dequeue(tables: sql.Tables, ticket: str) -> tuple[Any, ...] | None:
    row = tables.one("SELECT shape, owner, label, asked_at, refusals, for_children FROM ticket WHERE id=?", ticket)
    if row is not None:
        tables.run("DELETE FROM ticket WHERE id=?", ticket)
        tables.run("DELETE FROM shape WHERE key=? AND NOT EXISTS (SELECT 1 FROM ticket WHERE shape=key)", row[0])
    return row


def _hold(tables: sql.Tables, grant: model.Grant) -> None:
    row = _dequeue(tables, grant.id)
    if row is None:
        raise LookupError(f"granted ticket {grant.id} is not in the ledger")
    _, owner, label, asked_at, refusals, for_children = row
    tables.run(
        "INSERT INTO held VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, 0, NULL, ?, ?)",
        *(grant.id, grant.seq, *_columns(grant.shape)),
        *(grant.turn, grant.run, grant.chosen, grant.overtaken, grant.ends),
        *(owner, label, asked_at, tables.now, refusals, for_children),
    )
    for cell, amount in grant.holdings:
        tables.run("INSERT INTO holding VALUES (?, ?, ?, ?)", grant.id, cell.resource, cell.number, amount)


def _refuse(tables: sql.Tables, ticket: str) -> None:
    parent = tables.value("SELECT s.parent FROM ticket t JOIN shape s ON s.key=t.shape WHERE t.id=?", ticket)
    row = _dequeue(tables, ticket)
    if row is not None and parent is not None:
        tables.run("INSERT INTO refusal VALUES (?, ?, ?)", ticket, parent, row[1])
        address = tables.value("SELECT wake FROM owner WHERE id=?", row[1])
        # The actor's own waiter needs no datagram: it is told in this process, after the commit.
        if row[1] == tables.actor:
            tables.settled.append(ticket)
        elif address is not None:
            tables.wakes.append((address, ticket))


def _free(tables: sql.Tables, grant: str) -> None:
    # History is of the machine's cells only: a draw is part of its source's row.
    tables.run(
        "INSERT INTO history (held, label, pid, namespace, resource, number, amount, asked_at, granted_at, ended_at) "
        "SELECT h.id, h.label, COALESCE(o.pid, 0), COALESCE(o.namespace, ''), c.resource, c.number, c.amount, "
        "h.asked_at, h.granted_at, ? "
        "FROM held h JOIN holding c ON c.held=h.id LEFT JOIN owner o ON o.id=h.owner "
        "WHERE h.id=? AND h.source IS NULL",
        *(tables.now, grant),
    )
    tables.run("DELETE FROM history WHERE id <= (SELECT MAX(id) FROM history) - ?", HISTORY)
    _delete_held(tables, grant)


def _delete_held(tables: sql.Tables, grant: str) -> None:
    leases.give_up(tables, grant)
    tables.run("DELETE FROM held WHERE id=?", grant)


def _step_aside(tables: sql.Tables, grant: model.Grant, limit: str) -> None:
    row = tables.one("SELECT owner, label, asked_at, refusals, for_children FROM held WHERE id=?", grant.id)
    if row is None:
        raise LookupError(f"grant {grant.id} is not in the ledger")
    _delete_held(tables, grant.id)
    _shape_row(tables, grant.shape)
    tables.run(
        "INSERT INTO ticket VALUES (?, ?, ?, ?, ?, 0, NULL, ?, ?, ?, ?, ?, ?, ?)",
        *(grant.id, grant.seq, grant.turn, grant.run, grant.shape.key, *row[:3]),
        *(limit, grant.overtaken, row[3] + 1, row[4]),
    )


def shape_of(
    ticket: str,
    requirement: str,
    priority: int,
    expected: float | None,
    parent: str | None,
    root: str | None,
    source: str | None,
) -> model.Shape:
    """Return the shape of a ticket or grant from its columns."""
    shape = _plain_shape(requirement, priority, expected)
    if not (parent and root):
        return shape
    return replace(shape, nesting=model.Nesting(ticket=ticket, parent=parent, root=root, source=source))


def _ticket(ticket: str, seq: int, turn: int, run: str, base: int, reserved: str | None) -> model.Ticket:
    cells = tuple(model.Holding(model.CellId(r, n), a) for r, n, a in json.loads(reserved)) if reserved else ()
    return model.Ticket(id=ticket, seq=seq, turn=turn, run=run, base=base, reserved=cells)


def _dump(cells: tuple[model.Holding, ...]) -> str:
    return json.dumps([[cell.resource, cell.number, amount] for cell, amount in cells])

"""Whose turn it is: runs are served in turn, and a ticket is told its turn when it asks.

The first ticket of a run stands behind the turn that is being served, its further ones a turn each behind one another:
five hundred of one run let a newcomer in after two of them. A turn once told never changes, so that the queue is one
order for everybody, and nobody who comes later stands before the turn that is being served: no stream of new runs
starves an old one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prefect_slots.model.book import Line, Shape, Ticket
from prefect_slots.scheduling.fairness import front
from prefect_slots.scheduling.placement import Pool, place


def being_served(pool: Pool, shape: Shape, lines: Iterable[Line]) -> int:
    """Return the turn that is being served of what `shape` asks for: of several resources, the latest."""
    rivals = [line for line in lines if line.tickets and line.shape.pool == shape.pool]
    return max(_of_resource(pool, name, rivals) for name in shape.requirement.resources)


def _of_resource(pool: Pool, resource: str, lines: Iterable[Line]) -> int:
    # Whoever has cells set aside, or could not use any, waits outside the contest for as long as it takes; newcomers
    # measured against it would come before all others for as long.
    outside = 0
    contending: list[tuple[int, Line]] = []
    for line in lines:
        if resource in line.shape.requirement.resources:
            unserved = front(line)
            if unserved:
                contending.append((unserved[0].turn, line))
            outside = max(outside, *(ticket.turn for ticket in line.tickets if ticket.reserved), 0)
    contending.sort(key=lambda entry: entry[0])
    for turn, line in contending:
        if place(pool, line.shape.requirement, pool.most) is not None:
            return turn
    return outside


def next_turn(pool: Pool, shape: Shape, tails: Iterable[tuple[str, int]], lines: Mapping[str, Line]) -> int:
    """Return the turn of a ticket that asks now; `tails` are the last turns of its run, by the key of the line.

    A run's tickets are behind one another where they compete at equal priority. What is nested holds something
    already: it is behind nobody of its run.
    """
    turn = being_served(pool, shape, lines.values())
    if shape.nesting is None:
        wanted = set(shape.requirement.resources)
        for key, tail in tails:
            other = lines[key].shape if key in lines else shape
            if other.priority == shape.priority and not wanted.isdisjoint(other.requirement.resources):
                turn = max(turn, tail)
    return turn + 1


def turn_of_return(pool: Pool, shape: Shape, ticket: Ticket, lines: Mapping[str, Line]) -> int:
    """Return the turn of a ticket that stands in its line again: its old one, as far as turns are still that far."""
    served = being_served(pool, shape, lines.values())
    return max(served, min(ticket.turn, served + 1))

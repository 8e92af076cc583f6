"""Round robin between runs: each ticket gets a turn when it asks, and the queue is ordered by turns.

The first ticket of a run stands one turn behind the turn that is being served, its further ones a turn each behind one
another: a newcomer passes five hundred tickets of one run after two of them. A turn never changes, so that the queue is
one order for all, and no later ticket stands before the turn that is being served: no stream of new runs starves an old
one.
"""

from collections.abc import Iterable, Mapping

from prefect_slots.model import Line, Shape, Ticket
from prefect_slots.scheduling import fairness, placement


def being_served(pool: placement.Pool, shape: Shape, lines: Iterable[Line]) -> int:
    """Return the turn that is being served of the resources of `shape`: of several, the latest."""
    rivals = [line for line in lines if line.tickets and line.shape.pool == shape.pool]
    return max(_of_resource(pool, name, rivals) for name in shape.requirement.resources)


def _of_resource(pool: placement.Pool, resource: str, lines: Iterable[Line]) -> int:
    # A reserving ticket, or one that could not use any cell, may wait for very long outside the contest: newcomers
    # measured against its old turn would come before all other tickets for as long.
    outside = 0
    contending: list[tuple[int, Line]] = []
    for line in lines:
        if resource in line.shape.requirement.resources:
            unserved = fairness.front(line)
            if unserved:
                contending.append((unserved[0].turn, line))
            outside = max(outside, *(ticket.turn for ticket in line.tickets if ticket.reserved), 0)
    contending.sort(key=lambda entry: entry[0])
    for turn, line in contending:
        if placement.place(pool, line.shape.requirement, pool.most) is not None:
            return turn
    return outside


def next_turn(pool: placement.Pool, shape: Shape, tails: Iterable[tuple[str, int]], lines: Mapping[str, Line]) -> int:
    """Return the turn of a ticket that asks now; `tails` are the last turns of its run, by the key of the line.

    Tickets of a run are behind one another where they compete at equal priority. A nested request holds cells already:
    it is behind no ticket of its run, which would delay their release.
    """
    turn = being_served(pool, shape, lines.values())
    if shape.nesting is None:
        wanted = set(shape.requirement.resources)
        for key, tail in tails:
            other = lines[key].shape if key in lines else shape
            if other.priority == shape.priority and not wanted.isdisjoint(other.requirement.resources):
                turn = max(turn, tail)
    # One behind the served turn: at that turn itself a stream of newcomers would delay the run that is being served.
    return turn + 1


def turn_of_return(pool: placement.Pool, shape: Shape, ticket: Ticket, lines: Mapping[str, Line]) -> int:
    """Return the turn of a ticket that is back in its line: its old one, held between the served turn and the next."""
    served = being_served(pool, shape, lines.values())
    return max(served, min(ticket.turn, served + 1))

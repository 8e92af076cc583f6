"""Grant reuse: one grant for several tasks of its shape, instead of a release and a request for each.

Reuse saves the book's work for short tasks, and must not cost a waiting ticket anything: a grant is kept only while no
other ticket waits, so that its release could change nothing.
"""

from collections.abc import Mapping

from prefect_slots.model import Book, Scope
from prefect_slots.scheduling.placement import machine_pool


def may_go_on(book: Book, grant_id: str, own_ticket: str | None, scopes: Mapping[str, Scope]) -> bool:
    """Return whether the holder may keep its grant for the next task of the same shape.

    Args:
        book: The machine as it is now.
        grant_id: The grant.
        own_ticket: The ticket by which the same holder waits for more of the same shape, if any.
        scopes: Scope of each resource; empty where no server takes part.
    """
    grant = next((grant for grant in book.grants if grant.id == grant_id), None)
    if grant is None or grant.closed or grant.shape.nesting is not None:
        return False
    # Other machines may wait for a fleet resource, and no book shows their queues.
    if any(scopes.get(cell.resource) is Scope.FLEET for cell, _ in grant.holdings):
        return False
    if any(ticket.id != own_ticket for line in book.lines for ticket in line.tickets):
        return False
    # After a capacity was cut below its holdings nothing is kept: each release lets the excess shrink.
    free = machine_pool(book).free
    return all(free[cell] >= 0 for cell, _ in grant.holdings)

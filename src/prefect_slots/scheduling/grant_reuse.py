"""Whether a grant may serve another task of its shape instead of being given back.

One grant for several short tasks saves the book's work, and must not cost anybody who waits: beyond a short turn it is
kept only while nobody else waits, so that giving it back could change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from prefect_slots.model.book import Book
from prefect_slots.model.resource import Scope
from prefect_slots.scheduling.placement import machine_pool


def may_go_on(book: Book, grant_id: str, own_ticket: str | None, scopes: Mapping[str, Scope]) -> bool:
    """Tell whether the holder may keep its grant for the next task of the same shape.

    Args:
        book: The machine as it is now.
        grant_id: The grant.
        own_ticket: The ticket by which the same holder waits for more of the same shape, if it does.
        scopes: The scope of each resource where a server shares some among machines, whose queues no book shows.
    """
    grant = next((grant for grant in book.grants if grant.id == grant_id), None)
    if grant is None or grant.closed or grant.shape.nesting is not None:
        return False
    if any(scopes.get(cell.resource) is Scope.FLEET for cell, _ in grant.holdings):
        return False
    if any(ticket.id != own_ticket for line in book.lines for ticket in line.tickets):
        return False
    free = machine_pool(book).free
    return all(free[cell] >= 0 for cell, _ in grant.holdings)

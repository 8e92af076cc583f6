"""Nested requests: draw on an enclosing grant, wait for the machine's cells, or be refused.

A request is served from the nearest enclosing grant whose total covers it. It waits for siblings that draw on the same
grant only if the chain below that grant holds nothing at or after what it asks, in the canonical order; a request for
the machine's cells may wait only for resources strictly after everything the chain holds. Any other wait could be half
of a deadlock and is refused at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefect_slots.model import Book, Grant, Nesting, Requirement, Scope
from prefect_slots.scheduling import canonical_order, placement


@dataclass(frozen=True)
class Nested:
    """A request that may proceed; without `may_wait` only if it can be granted at once."""

    nesting: Nesting
    may_wait: bool


@dataclass(frozen=True)
class RefusedNesting:
    """A refused request; `held` is the innermost grant in its way, and `closed` tells that this grant has ended."""

    held: Grant
    closed: bool


def chain_of(book: Book, grant_id: str) -> tuple[Grant, ...]:
    """Return the grant and those that enclose it, innermost first; empty if it is gone.

    The chain ends early where an enclosing grant has ended before those within it.
    """
    grants = {grant.id: grant for grant in book.grants}
    chain: list[Grant] = []
    at: str | None = grant_id
    while at is not None and at in grants:
        chain.append(grants[at])
        nesting = grants[at].shape.nesting
        at = nesting.parent if nesting else None
    return tuple(chain)


def chain_of_runs(book: Book, runs: Sequence[str]) -> tuple[Grant, ...]:
    """Return the chain, innermost first, of the grants that enclose the work which a flow run awaits.

    Grants that lie within one another are all taken to enclose it, for the innermost may be the one that waits. Of a
    run with several tasks under grants, any may be: only the grants that all of them share are sure to.

    Args:
        book: The machine as it is now.
        runs: Ids of flow runs; the first one that holds anything counts.
    """
    for run in runs:
        chains = [chain_of(book, grant.id) for grant in book.grants if grant.run == run and not grant.closed]
        if chains:
            deepest = max(chains, key=len)
            in_one = all(chain[0] in deepest for chain in chains)
            return tuple(grant for grant in deepest if in_one or all(grant in chain for chain in chains))
    return ()


def nest(
    book: Book, requirement: Requirement, chain: Sequence[Grant], ticket: str, scopes: Mapping[str, Scope]
) -> Nested | RefusedNesting:
    """Return the way in which a request made under `chain` (innermost first, not empty) may proceed.

    Args:
        book: The machine as it is now.
        requirement: The requirement of the request.
        chain: The enclosing grants.
        ticket: The id of the new ticket.
        scopes: Scope of every resource that is asked for or held.
    """
    # The root may be gone from the book; its id is kept in each nested grant.
    parent, root = chain[0], chain[-1].root
    if parent.closed:
        return RefusedNesting(parent, closed=True)

    def places(names: Sequence[str]) -> list[tuple[Scope, str]]:
        return [(scopes.get(name, Scope.WORKER), name) for name in names]

    asked = places(requirement.resources)
    held_below: list[str] = []
    for grant in chain:
        pool = placement.grant_pool(book, grant)
        if not grant.closed and placement.place(pool, requirement, pool.most) is not None:
            nesting = Nesting(ticket=ticket, parent=parent.id, root=root, source=grant.id)
            return Nested(nesting, may_wait=canonical_order.strictly_after(asked, places(held_below)))
        held_below.extend(cell.resource for cell, _ in grant.holdings)
    if chain[-1].id != root:
        # A grant within the chain has ended before its children, so that its own enclosing grants are not known any
        # more: all that is held under the root counts.
        held_below.extend(cell.resource for grant in book.grants if grant.root == root for cell, _ in grant.holdings)
    if canonical_order.strictly_after(asked, places(held_below)):
        return Nested(Nesting(ticket=ticket, parent=parent.id, root=root, source=None), may_wait=True)
    return RefusedNesting(parent, closed=False)

"""What should happen: pure functions over a `Book`, with no clock and no I/O.

canonical_order  the one canonical order: of limits, of calls to the server, of nested requests
placement        where a requirement fits: best fit on single cells
round_robin      whose turn it is: runs are served in turn
fairness         who has been overtaken too often, and what is set aside for whom
backfill         how long what is set aside will certainly wait: which reservations short work passes
wait_graph       who waits for whom: which reservations a nested request passes
admission        who is next in one pool: the machine's cells, or those of a grant that others draw on
nesting          what a request inside a grant may do: draw, wait, or neither
decide           (book, event, now) -> (book, changes)
grant_reuse      whether a grant may serve another task of its shape
explain          why a ticket waits, as data
"""

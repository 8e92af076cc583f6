"""The scheduler: pure functions over a `Book`, with no clock and no I/O.

decide           (book, event, now) -> (book, changes)
admission        the next grant in one pool: the machine's cells, or those of a grant that others draw on
placement        best fit of a requirement on single cells; foreign use spread over cells
round_robin      the turns of runs in the queue
fairness         the bound on overtaking, and reservations after it
backfill         short work in the gap before a reservation starts
wait_graph       the waits between chains of grants: the reservations that a nested request passes
nesting          a request inside a grant: draw, wait, or neither
canonical_order  the one order of limits, of calls to the server, and of nested requests
grant_reuse      one grant for several tasks of its shape
explain          the reasons of waiting, as data
"""

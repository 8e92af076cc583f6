"""What should happen: pure functions over a `Book`, with no clock and no I/O.

ordering    the one canonical order: of limits, of calls to the server, of nested requests
placement   where a requirement fits: best fit on single cells
fairness    who has been overtaken too often, what is set aside for whom, who waits for whom
nesting     what a request inside a grant may do: draw, wait, or neither
decide      (book, event, now) -> (book, changes)
explain     why a ticket waits, as data
"""

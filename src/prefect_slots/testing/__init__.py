"""How prefect-slots is tested, for whoever implements a part of it anew; needs `hypothesis`.

strategies     what to try: amounts, demands, requirements, machines, books, units of the canonical order
bookkeeping    who keeps a book: the protocol, the plain model, and a keeper that shows decisions truncated views
play           everything that can happen to a book, played on several keepers at once
machines       a stateful machine that plays at random
interleavings  every interleaving of a few small processes, breadth first
laws           the laws, stated over books and recomputed from nothing but the book
clock          time that passes only when told to
"""

"""Records of resources, requests and findings: frozen, standard library only.

amount       MiB, seats and cores, parsed and printed without ever under-counting
resource     what a machine has: resources, their cells, the inventory
gpu          the vendor of a GPU: pin variables, framework name
declaration  a person's statements about it: rules for detection, declared licenses and resources
finding      problems of a machine and their remedies
registered   the registered machine: resources with numbered cells, units and specs of limits
requirement  canonical demands of one call, with alternatives
terms        priority, estimate and time limit of a request, checked in one place
request      all that a caller asks for, from `requires`, `run` and pools to the ledger
book         the book: cells, grants and waiting tickets, its events and changes
"""

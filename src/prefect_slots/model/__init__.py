"""What things are: frozen, standard library only.

amount       MiB, seats and cores, parsed and printed without ever under-counting
resource     what a machine has: resources, their cells, the inventory
gpu          the vendor of a GPU: pin variables, framework name
declaration  what a person wrote about it: rules for detection, declared licences and resources
finding      problems of a machine and their remedies
registered   what a machine has, as its ledger knows it
requirement  canonical demands of one call, with alternatives
terms        priority, estimate and time limit of a request, checked in one place
request      all that a caller asks for, from `requires`, `run` and pools to the ledger
book         who holds what and who waits: tickets, grants, the view that scheduling decides on
"""

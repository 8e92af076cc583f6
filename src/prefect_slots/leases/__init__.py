"""The server half of a request: slots occupied for grants, kept by renewal, and released.

acquire    leases for a grant, in canonical order: all of them or none
release    leases given back, each once
renew      leases kept alive, and taken again once they are lost
session    one process at one Prefect server
leader     the work that one process does at the server for its machine
foreign    use of limits by others, and tickets that the server refused
reconcile  the server's counts against the ledger's, and their repair by difference
"""

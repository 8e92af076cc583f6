"""The server half of a request: what grants occupy on the server, kept and given back.

acquire    what the ledger granted, occupied on the server; leases renewed and given back
session    this process at one Prefect server: takes, gives back, looks after the machine's part there
release    what is no longer held, given back to the server
renew      leases kept alive, and taken anew where the server lost them
leader     what one process does at the server for all of the machine
foreign    what others take and give back there, and tickets that it refused
counts     the server's count of a limit against the ledger's
reconcile  the server's counts, made true by difference
"""

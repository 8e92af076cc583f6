"""The caller's half of a request: from asking to the grant and back, over ledger and server.

coordination  the mode in force: ledger alone, ledger and server, or none
meeting       other ledgers of this host with the same GPUs: a warning or a refusal
registration  survey of the machine, written to the ledger and to the server's limits
engine        one thread with an event loop per process; survives forks, cleans up at exit
session       the owner of this process in one ledger, from its first request to its end, and the upkeep it does
tickets       requests of this process: asked, waited for, granted, ended
client        one request from the caller's thread or task, safe against interruption at any point
"""

"""From a request to a grant and back: drives the ledger and the server's limits.

coordination  who decides: the ledger alone, the ledger and the server, or nobody
registration  survey the machine, write the ledger, make the server's limits equal it
engine        one thread with an event loop per process; survives forks, cleans up at exit
session       this process's owner in one ledger, from its first request to its end
tickets       the requests of this process: asked, waited for, granted, ended
upkeep        reaping the dead, and ending what could not be ended at once
outcome       grant, place in the queue, or error: the outcomes of a request
client        one request from the caller's thread or task, safe against interruption at any point
"""

"""From a request to a grant and back: drives the ledger and the server's limits.

coordination  who decides: the ledger alone, the ledger and the server, or nobody
registering   survey the machine, write the ledger, make the server's limits equal it
examining     looks at everything that can be wrong with a machine
comparing     the server's limits against what this machine has and holds
mending       reaps the dead and makes the server's counts true, for whoever asks for it now
engine        one thread with an event loop per process; survives forks, cleans up at exit
machine       this process's part in one ledger: its owner, its tickets, its wake-ups, reaping the dead
occupancy     what the ledger granted, occupied on the server; leases renewed and given back
standing      this process at one Prefect server: takes, gives back, looks after the machine's part there
giving_back   what is no longer held, given back to the server
keeping       leases kept alive, and taken anew where the server lost them
steward       what one process does at the server for all of the machine
probing       what others take and give back there, and tickets that it refused
repairing     the server's counts, made true by difference
asking        what a request is: asked, waiting, held
request       one request from the caller's thread or task, safe against interruption at any point
"""

"""From a request to a grant and back: drives the ledger and the server's limits.

coordination  who decides: the ledger alone, the ledger and the server, or nobody
registering   survey the machine, write the ledger, make the server's limits equal it
examining     looks at everything that can be wrong with a machine
comparing     the server's limits against what this machine has and holds
mending       reaps the dead and makes the server's counts true, for whoever asks for it now
engine        one thread with an event loop per process; survives forks, cleans up at exit
machine       this process's part in one ledger: its owner, its tickets, its wake-ups, reaping the dead
occupancy     what the ledger granted, occupied on the server; leases renewed and given back
watching      the periodic look at what others use, and at what grants use of what they declared
card_holders  who holds which card by the ledger, and which processes are theirs
card_use      a look at the cards, written into the ledger
seat_use      a look at the licence servers, written into the ledger
outsiders     what two witnesses of others' use mean together; pure
exceeding     declared against used
ending        ends a command that uses more than it declared
users         whose process holds a seat
others_now    what others use now, for people who ask
aside         work that may hang, in a thread that nobody waits for
request       one request from the caller's thread or task, safe against interruption at any point
"""

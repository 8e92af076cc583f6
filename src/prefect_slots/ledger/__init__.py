"""One machine, many processes: the book of grants and tickets on disk.

folder       which local folder holds the ledger, and why another cannot
schema       the tables, and opening them safely
store        the file: transactions that commit, then wake whom they granted
transaction  what may be done inside one: owners, events, tickets
book         the book as rows: the view that is decided on, the changes that are written
sql          SQL inside one transaction
registry     what the machine has: cells and their numbers
usage        what devices and licence servers show of others' use
spending     what was seen of a grant's memory beside what it declared
leases       what the server was asked for: intents, leases, releases
owner        a process proven alive by the lock it holds
election     what one process does for all of the machine
failpoints   where a crash leaves something to others; tests kill there
wakeup       datagrams to exactly the tickets that were granted

It is handed the scheduler as a function and decides nothing itself.
"""

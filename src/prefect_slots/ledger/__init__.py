"""One machine, many processes: the book of grants and tickets on disk.

folder       the local state folder, and the reasons to refuse one
neighbors    other ledgers of this host that offer the same GPUs
owner        a process proven alive by the lock that it holds
schema       the tables, and opening their file safely
store        the file: transactions that commit, then wake the owners of new grants
transaction  the operations of one transaction: owners, events, tickets
sql          statements inside one transaction
book         the book as rows: the view for decisions, and the writing of their changes
leases       the machine's calls to the server: intents, leases, releases
registry     the registered machine: cells and their numbers
usage        measured use: foreign use of cells, and grants' own use
queries      reads for status, doctor, history and looks
election     roles that one process has for all of the machine
elected      the loop of a role's jobs
wakeup       datagrams to the owners of new grants
failpoints   the moments at which a crash leaves work to others; tests kill there

The scheduler is passed in as a function; nothing here decides.
"""

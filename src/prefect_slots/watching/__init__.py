"""What others use of this machine, and what grants use of what they declared: looked at, and written into the ledger.

watcher       the periodic look, by one process of the machine
card_holders  who holds which card by the ledger, and which processes are theirs
card_use      a look at the cards, written into the ledger
seat_use      a look at the licence servers, written into the ledger
users         whose process holds a seat
outsiders     what two witnesses of others' use mean together; pure
memory_use    a look at the host's memory, written into the ledger
parts         what grants hold, and to which of them a process belongs
exceeding     declared against used: cards and the host's memory
ending        ends a process that uses more than it declared
others_now    what others use now, for people who ask
aside         work that may hang, in a thread that nobody waits for
"""

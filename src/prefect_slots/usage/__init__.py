"""What others use of this machine, and what grants use of what they declared: looked at, and written into the ledger.

monitor      the periodic look, by one process of the machine
gpu_holders  who holds which card by the ledger, and which processes are theirs
gpus         a look at the cards, written into the ledger
licenses     a look at the licence servers, written into the ledger
foreign      what two witnesses of others' use mean together; pure
memory       a look at the host's memory, written into the ledger
attribution  what grants hold, and to which of them a process belongs
overuse      declared against used: cards and the host's memory
snapshot     what others use now, for people who ask
"""

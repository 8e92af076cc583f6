"""Use of this machine, measured and written into the ledger: foreign use, and grants' use of their declared amounts.

monitor       periodic looks, by one elected process of the machine
before_grant  looks before a request, as far as nobody has looked lately
gpus_now      a look at the GPUs for one decision
gpus          a look at the GPUs
licenses      a look at the license servers
memory        a look at the host's memory
overuse       processes' grants, and use against the declared amount: excesses, their end, suggestions
foreign       foreign use from two witnesses, and the part that is blocked; pure
snapshot      foreign use at this moment, for people who ask
holders       holders of license seats outside, for people who ask
"""

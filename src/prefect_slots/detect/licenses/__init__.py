"""License servers: a pure `parse_*` per vendor over one patient client.

report    features as a server reports them (counted, unlimited, unknown)
output    lines, blocks and days of expiry in the output of their tools, for all parsers
vendors   the vendors' programs, their arguments and parsers
flexnet   `lmutil lmstat`
rlm       `rlmutil rlmstat`
lmx       `lmxendutil -licstat`
lsdyna    `lstc_qrun -R`
dsls      `DSLicSrv -admin`
olicense  `olixtool -sv`
sentinel  `lsmon`
client    one query of a server at a time, a cache of its answer, back-off after failures
here      this machine and its user, as locks and reservations name them
reservations  seats that servers set aside, and which of them are ours
seats     resources from the servers' reports
outside   seats in use outside: the server's count less ours

User names of checkouts are neither shown nor stored.
"""

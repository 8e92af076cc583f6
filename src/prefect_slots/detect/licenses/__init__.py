"""What licence servers count: a pure `parse_*` per vendor over one thin, patient query.

report    what a server tells of its features: counted, unlimited or unknown, and what was odd
parsing   what all parsers share: numbered lines, lines that were not understood, vendors' dates
flexnet   `lmutil lmstat`
rlm       `rlmutil rlmstat`
lmx       `lmxendutil -licstat`
lsdyna    `lstc_qrun -R`
dsls      `DSLicSrv -admin`
olicense  `olixtool -sv`
sentinel  `lsmon`
vendors   how each vendor's server is asked, and who reads the answer
turns     whose turn it is to ask a server, among all processes of a user
client    one query of a server at a time, its answer kept, patience after failures
seats     from what servers tell to resources, and to what is unknown
outside   how many seats people outside use: what a server shows, less what is ours
look      the probe: asks the configured servers and judges

Nothing here shows or stores the name of anybody who holds a seat.
"""

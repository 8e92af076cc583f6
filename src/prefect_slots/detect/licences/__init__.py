"""What licence servers count: a pure `parse_*` per vendor over one thin, patient query.

usage      what a server tells of its features: counted, unlimited or unknown, and what was odd
reading    what all parsers share: numbered lines, lines that were not understood, vendors' dates
flexnet    `lmutil lmstat`
"""

"""Problems of a machine, and their remedies.

examine  facts gathered from settings, ledger, detection and server
counts   the server's limits against this machine's resources and leases
fix      dead owners reaped and the server's counts repaired at once
facts    the facts, as records
checks   findings from facts
"""

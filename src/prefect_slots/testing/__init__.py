"""Hypothesis strategies and a state machine for authors of another ledger; needs `prefect-slots[testing]`.

strategies   amounts, demands, requirements, machines, books, units of the canonical order
machines     `BookMachine`: a stateful test that compares a ledger with the model after every event
bookkeeping  `BookKeeper`: the protocol of a ledger under test, and the model in memory
play         the events of `BookMachine`, applied to several keepers at once
"""

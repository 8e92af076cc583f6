"""Prefect workers on a machine whose limits are kept true.

upkeep          registers the machine, then looks at it anew every so often; what both ways of starting share
wrapper         `prefect-slots worker start`: any process pool, by running `prefect worker start`
process_worker  the worker type `slots-process`, which plain `prefect worker start` runs
"""

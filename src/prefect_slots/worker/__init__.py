"""Prefect workers on a machine whose limits are kept true.

refresh         registers the machine, then looks at it anew every so often; what both ways of starting share
start           `prefect-slots worker start`: any process pool, by running `prefect worker start`
process_worker  the worker type `slots-process`, which plain `prefect worker start` runs
"""

"""Prefect workers on a machine with registered limits.

refresh         registers the machine, then surveys it anew at intervals; shared by both ways of starting
start           `prefect-slots worker start`: any process pool, by running `prefect worker start`
process_worker  the worker type `slots-process`, run by plain `prefect worker start`
"""

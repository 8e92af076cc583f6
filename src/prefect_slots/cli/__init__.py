"""The `prefect-slots` command.

app       the root: common options, errors as words or JSON, exit codes
machine   detect, register, status: what this machine has, and who holds it
doctoring doctor: what is wrong with this machine, and what to do about it
running   run: a command under a grant
working   worker start: register, then `prefect worker start`
showing   demo: real flow runs on this machine, live
tables    how things look on a terminal
"""

from prefect_slots.cli.app import main

__all__ = ["main"]

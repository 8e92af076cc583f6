"""The `prefect-slots` command.

app      the root: the list of commands, common options, errors as words or JSON, exit codes
machine  detect, register, status: resources of this machine, their holders and waiters
doctor   doctor: problems of this machine and their remedies
run      run: a command under a grant
worker   worker start: registration, then `prefect worker start`
demo     demo: real flow runs on this machine, live
tables   renderables of `rich` for all commands
"""

from prefect_slots.cli.app import main

__all__ = ["main"]

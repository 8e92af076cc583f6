"""The commands by name, each imported when it is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from cyclopts import App

_COMMANDS: Final = {
    "detect": ("machine:detect", "Show what this machine has, as detected and declared."),
    "register": ("machine:register", "Make the Prefect server's limits equal what this machine has."),
    "status": ("machine:status", "Show who holds what since when, and who waits for what and why."),
    "doctor": ("doctor:doctor", "Look for what is wrong with this machine, and say what to do about it."),
    "run": ("run:run", "Run a command under a grant: `run --gpu-mem 8 -- python train.py`."),
    "worker": None,
    "demo": ("demo:demo", "Watch real flow runs share two cards and a licence."),
}
_WORKER_START: Final = ("worker:start", "Register this machine, then run `prefect worker start`.")


def add_to(app: App, tokens: Sequence[str]) -> None:
    """Give `app` its commands; a module is imported only when one of its commands runs or shows its help.

    Args:
        app: The root.
        tokens: What was typed. A line for the list of commands would take the place of the typed command's own help.
    """
    for name, command in _COMMANDS.items():
        if command is None:
            worker = App(name=name, help="Start a Prefect worker on this machine.")
            _add(worker, "start", _WORKER_START, typed=list(tokens[:2]) == [name, "start"])
            app.command(worker)
        else:
            _add(app, name, command, typed=list(tokens[:1]) == [name])


def _add(app: App, name: str, command: tuple[str, str], *, typed: bool) -> None:
    place, summary = command
    app.command(f"prefect_slots.cli.{place}", name=name, help=_own_words(place) if typed else summary)


def _own_words(place: str) -> str:
    # Cyclopts leaves out the examples of a docstring in this form. Markdown takes them for code after an empty line.
    module, _, function = place.partition(":")
    words = inspect.getdoc(getattr(import_module(f"prefect_slots.cli.{module}"), function)) or ""
    return words.replace("Examples:\n", "**Examples**\n\n")

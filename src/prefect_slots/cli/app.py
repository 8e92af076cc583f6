"""The root of the command line: the list of commands, errors as words or JSON, exit codes.

A command's module is imported when the command runs, so that `prefect-slots run -- true` does not wait for Prefect.
"""

import dataclasses
import inspect
import io
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from prefect_slots.errors import SlotsError

FAILED = 1
# A shell's code for a command that SIGINT (2) ended: 128 + 2.
INTERRUPTED = 130

# Module, function and line of the list for each command. The lines stand here and not in docstrings, so that the list
# is printed without importing any command.
_COMMANDS = {
    "detect": ("machine", "detect", "Show what this machine has, as detected and declared."),
    "register": ("machine", "register", "Make the Prefect server's limits equal what this machine has."),
    "status": ("machine", "status", "Show who holds what since when, and who waits for what and why."),
    "doctor": ("doctor", "doctor", "Look for what is wrong with this machine, and say what to do about it."),
    "run": ("run", "run", "Run a command under a grant: `run --gpu-mem 8 -- python train.py`."),
    "worker start": ("worker", "start", "Register this machine, then run `prefect worker start`."),
    "demo": ("demo", "demo", "Watch real flow runs share two cards and a licence."),
}

app = App(
    name="prefect-slots",
    help="""Share one machine's GPUs, licences and memory between Prefect tasks, without overload or deadlock.

Start here: `prefect-slots detect`, then `prefect-slots worker start --pool POOL`.

Exit codes: 0 done; 1 an error, told on standard error; 130 interrupted. `run` and `worker start` end with their
command's code; `run` with 124 when waiting timed out and 125 when prefect-slots itself failed.""",
    version=lambda: version("prefect-slots"),
    help_format="markdown",
    # Cyclopts would print a command's exit code otherwise, and end the process itself.
    result_action="return_value",
)

Config = Annotated[
    Path | None,
    Parameter(name="--config", help="Read this file instead of ./prefect-slots.toml or /etc/prefect-slots.toml."),
]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for programs; also `-o json`.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    # Names of people and words of servers may hold letters that the terminal's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    tokens = _with_json_flag(list(sys.argv[1:] if arguments is None else arguments))
    _add_commands(tokens)
    try:
        code = app(tokens)
        # Flushed here, so that a closed pipe is noticed inside this `try`.
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough (`| head`). Python flushes once more as it ends, and would complain of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)  # as rich does
    except SlotsError as error:
        say_error(error, as_json="--json" in _ours(tokens))
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _add_commands(tokens: list[str]) -> None:
    worker = App(name="worker", help="Start a Prefect worker on this machine.")
    for name, (module, function, line) in _COMMANDS.items():
        words = name.split()
        place = f"prefect_slots.cli.{module}"
        # A line of the list would take the place of the typed command's own help.
        help = _own_words(place, function) if tokens[: len(words)] == words else line
        (worker if len(words) > 1 else app).command(f"{place}:{function}", name=words[-1], help=help)
    app.command(worker)


def _own_words(module: str, function: str) -> str:
    # Cyclopts leaves out the examples of a docstring in this form. Markdown takes them for code after an empty line.
    words = inspect.getdoc(getattr(import_module(module), function)) or ""
    return words.replace("Examples:\n", "**Examples**\n\n")


def _ours(tokens: list[str]) -> list[str]:
    return tokens[: tokens.index("--")] if "--" in tokens else tokens


def _with_json_flag(tokens: list[str]) -> list[str]:
    """Accept `-o json` and `--output json`, as `prefect` does, before any `--`."""
    own = _ours(tokens)
    # `worker start` hands its flags on, and one of them may be `-o`.
    for place, token in enumerate(own):
        if token in ("-o", "--output") and own[place + 1 : place + 2] == ["json"] and own[:2] != ["worker", "start"]:
            return [*own[:place], "--json", *own[place + 2 :], *tokens[len(own) :]]
    return tokens


def error_data(error: SlotsError) -> dict[str, Any]:
    """Return an error as plain values: its type, its message, its fields."""
    names = [each.name for each in dataclasses.fields(error)] if dataclasses.is_dataclass(error) else []
    return {"error": type(error).__name__, "message": str(error), **{name: getattr(error, name) for name in names}}


def say_error(error: SlotsError, *, as_json: bool) -> None:
    """Print an error: as JSON on standard output, or in words on standard error."""
    if as_json:
        print(json.dumps(error_data(error), default=str))
        return
    # Deferred: `run` prints nothing of its own and starts faster without it.
    from rich.console import Console
    from rich.text import Text

    words = Text("Error: ", style="bold red") + Text(str(error), style="default")
    Console(stderr=True).print(words, soft_wrap=True)


def print_json(data: object) -> None:
    """Print one JSON value for programs."""
    print(json.dumps(data, indent=2, default=str))

"""The root of the command line: commands, errors as words or JSON, exit codes.

Commands import what they need when they run, so that `prefect-slots run -- true` need not wait for Prefect.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from prefect_slots.errors import SlotsError

FAILED: Final = 1
INTERRUPTED: Final = 130

app = App(
    name="prefect-slots",
    help="""Share one machine's GPUs, licences and memory between Prefect tasks, without overload or deadlock.

Start here: `prefect-slots detect`, then `prefect-slots worker start --pool POOL`.

Exit codes: 0 done; 1 an error, told on standard error; 130 interrupted. `run` and `worker start` end with their
command's code; `run` with 124 when waiting timed out and 125 when prefect-slots itself failed.""",
    version=lambda: version("prefect-slots"),
    help_format="markdown",
    result_action="return_value",
)

Config = Annotated[
    Path | None,
    Parameter(name="--config", help="Read this file instead of ./prefect-slots.toml or /etc/prefect-slots.toml."),
]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for programs; also `-o json`.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    tokens = _with_json_flag(list(sys.argv[1:] if arguments is None else arguments))
    from prefect_slots.cli import commands

    commands.add_to(app, tokens)
    try:
        code = app(tokens)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough. Python flushes once more as it ends, and would complain of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)  # as rich does
    except SlotsError as error:
        say_error(error, as_json="--json" in _ours(tokens))
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _ours(tokens: list[str]) -> list[str]:
    return tokens[: tokens.index("--")] if "--" in tokens else tokens


def _with_json_flag(tokens: list[str]) -> list[str]:
    """Accept `-o json` and `--output json`, as `prefect` does, before any `--`."""
    own = _ours(tokens)
    for place, token in enumerate(own):
        if token in ("-o", "--output") and own[place + 1 : place + 2] == ["json"] and own[:2] != ["worker", "start"]:
            return [*own[:place], "--json", *own[place + 2 :], *tokens[len(own) :]]
    return tokens


def error_data(error: SlotsError) -> dict[str, Any]:
    """Return an error as plain values: its type, its message, its fields."""
    fields = (
        {f.name: getattr(error, f.name) for f in dataclasses.fields(error)} if dataclasses.is_dataclass(error) else {}
    )
    return {"error": type(error).__name__, "message": str(error), **fields}


def say_error(error: SlotsError, *, as_json: bool) -> None:
    """Print an error where errors go."""
    if as_json:
        print(json.dumps(error_data(error), default=str))
    else:
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True).print(
            Text("Error: ", style="bold red") + Text(str(error), style="default"), soft_wrap=True
        )


def print_json(data: object) -> None:
    """Print one JSON value for programs."""
    print(json.dumps(data, indent=2, default=str))

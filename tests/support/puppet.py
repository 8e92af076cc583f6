"""A process that acquires and releases when told to: `python -m tests.support.puppet`, one JSON command a line.

Commands: `enter` with `needs` (replies `granted` or `error`), `leave` (gives back the latest). At the end of its input
the program ends, holding whatever it holds.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from prefect_slots import requires
from prefect_slots.errors import SlotsError


def main() -> None:
    entered: list[requires] = []
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "enter":
            say(enter(entered, command["needs"]))
        else:
            entered.pop().__exit__(None, None, None)
            say({"left": True})


def enter(entered: list[requires], needs: dict[str, Any]) -> dict[str, Any]:
    asked = requires(**needs)
    try:
        grant = asked.__enter__()
    except SlotsError as error:
        return {"error": type(error).__name__, "message": str(error)}
    entered.append(asked)
    return {"granted": grant.amounts, "devices": [d.uuid for d in grant.devices], "at": time.monotonic()}


def say(reply: dict[str, Any]) -> None:
    print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()

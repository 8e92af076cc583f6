#!/usr/bin/env python3
"""A licence vendor's program: asks no server, and prints or does what a scene in a file says.

`fake_license_tool.py SCENE vendor's arguments...`; the scene is JSON:

log   file that gets a line when a query begins and one when it ends
do    `print` (default), `wait` for the file `gate` before printing, `hang` for ever without listening to SIGTERM, as
      does a child that it leaves behind, `flood` with no end, `close` its output and live on
text  what to print; `repeat` so many times
code  its exit status
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any


def hang(scene: dict[str, Any]) -> None:
    """Ignore being asked to end, with a child that does the same and keeps the output open."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = os.fork()
    note(scene, "hangs")
    if child:
        print("Users of aa:  (Total of 9 licenses issued;  Total of 9 licenses in use)", flush=True)
    while True:
        signal.pause()


def note(scene: dict[str, Any], event: str, **more: object) -> None:
    """Write a line into the log in one piece."""
    line = json.dumps({"event": event, "pid": os.getpid(), **more}) + "\n"
    log = os.open(scene["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, line.encode())
    os.close(log)


def main(path: str, *arguments: str) -> int:
    scene: dict[str, Any] = json.loads(Path(path).read_text())
    ended = not select.select([0], [], [], 5)[0]
    given = "did not end" if ended else sys.stdin.read()
    note(
        scene,
        "begins",
        arguments=arguments,
        stdin=given,
        language=os.environ.get("LC_ALL"),
        port=os.environ.get("LSPORT"),
    )
    do = scene.get("do", "print")
    if do == "hang":
        hang(scene)
    while do == "wait" and not Path(scene["gate"]).exists():
        time.sleep(0.01)
    while do == "flood":
        os.write(1, b"x" * 65536)
    for _ in range(scene.get("repeat", 1)):
        sys.stdout.write(scene.get("text", ""))
    sys.stdout.flush()
    if do == "close":
        os.close(1)
        os.close(2)
        signal.pause()
    note(scene, "ends")
    return scene.get("code", 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

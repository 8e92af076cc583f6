"""Programs on a machine that hold what they are told to hold, each a process of its own, on a server or not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from tests.support.boxes import Box, line, tell

# Does as it is told, line by line: {"enter": {...}} or {"leave": true}; answers when it is done.
OBEYS = """
import json, sys
from contextlib import ExitStack
from prefect_slots import requires
stack = ExitStack()
for command in map(json.loads, sys.stdin):
    try:
        if "enter" in command:
            grant = stack.enter_context(requires(**command["enter"]))
            print(json.dumps({"granted": grant.id}), flush=True)
        else:
            stack.close()
            print(json.dumps({"left": True}), flush=True)
    except Exception as error:
        print(json.dumps({"error": type(error).__name__, "text": str(error)}), flush=True)
"""


class Program:
    """A program on a machine that holds what it is told to hold."""

    def __init__(self, box: Box) -> None:
        self.process = box.start(OBEYS)

    def end(self) -> None:
        """Close its input and wait for its end; one that waits in vain, after a test that failed, is killed."""
        if self.process.poll() is None:
            try:
                self.process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    def ask(self, **needs: Any) -> None:
        """Have it ask, without waiting for the answer."""
        tell(self.process, json.dumps({"enter": needs}))

    def answer(self) -> dict[str, Any]:
        """Return what it says next: `granted`, `left` or `error`."""
        return line(self.process)

    def enter(self, **needs: Any) -> None:
        """Have it ask, and wait until it holds that."""
        self.ask(**needs)
        assert "granted" in (answer := self.answer()), answer

    def leave(self) -> dict[str, Any]:
        """Have it give back everything; return what it says to that."""
        tell(self.process, json.dumps({"leave": True}))
        return self.answer()

    def kill(self) -> None:
        """Kill it, as the machine's keeper or a lack of memory does."""
        self.process.kill()
        self.process.communicate(timeout=10)


Start = Callable[[], Program]


@contextmanager
def started(box: Box) -> Generator[Start]:
    """Start programs on a machine; all of them end with the block, and give back what they still hold."""
    programs: list[Program] = []

    def start() -> Program:
        programs.append(Program(box))
        return programs[-1]

    try:
        yield start
    finally:
        for program in programs:
            program.end()

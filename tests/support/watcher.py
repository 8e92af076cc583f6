"""A process that takes part in a machine and looks at what its grants use, and what it says of that."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.support.card_scene import CardScene
from tests.support.polling import until

# Takes part, so that it looks, and says what it has to say.
LOOKS = """
import logging, sys
logging.basicConfig(level="INFO", format="%(levelname)s %(message)s", stream=sys.stdout)
from prefect_slots import requires
with requires(cpus=1):
    print("ready", flush=True)
    sys.stdin.readline()
"""


class Watcher:
    """The process that looks."""

    def __init__(self, scene: CardScene, log: Path) -> None:
        self._log = log
        command = [sys.executable, "-c", LOOKS]
        with log.open("w") as out:
            self.process = subprocess.Popen(command, env=scene.machine.env, stdin=subprocess.PIPE, stdout=out)
        until(lambda: "ready" in self.log, what="the watcher")
        role = "SELECT 1 FROM role JOIN owner ON owner=id WHERE name='watcher' AND pid=?"
        until(lambda: bool(scene.machine.all(role, self.process.pid)), what="its election")

    @property
    def log(self) -> str:
        return self._log.read_text()

    def says(self, text: str) -> None:
        until(lambda: text in self.log, what=f"'{text}' in {self.log}")


@contextmanager
def watched(folder: Path, library: Path, **settings: str) -> Generator[tuple[CardScene, Watcher]]:
    scene = CardScene(folder, library, **settings)
    watcher = Watcher(scene, folder / "log")
    try:
        yield scene, watcher
    finally:
        watcher.process.communicate(b"\n", timeout=30)

"""A licence vendor's program that does as it is told, and what it wrote down of its runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TOOL = Path(__file__).parent / "fake_license_tool.py"


class Tool:
    """One scene: the command that plays it, and its log."""

    def __init__(self, folder: Path, **scene: Any) -> None:
        folder.mkdir()
        self.log = folder / "log"
        self.gate = folder / "gate"
        self._scene = folder / "scene.json"
        self.play(**scene)

    def play(self, **scene: Any) -> None:
        """Do something else from the next run on."""
        self._scene.write_text(json.dumps({"log": str(self.log), "gate": str(self.gate), **scene}))

    @property
    def command(self) -> tuple[str, ...]:
        return (sys.executable, str(TOOL), str(self._scene))

    def noted(self, event: str) -> list[dict[str, Any]]:
        """Return the log's lines of one kind."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in map(json.loads, lines) if line["event"] == event]

"""A machine without a server whose cards, and the processes on them, are told by a real NVML library from a file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.nvml_stub.library import environment
from tests.support.nvml_stub.machines import UNTOLD, FakeDevice, FakeProcess, Machine
from tests.support.polling import until
from tests.support.processes import SharedMachine

CONFIG = """
[settings]
worker = "shared"
use_seconds = 0.2
hold_seconds = 0
[gpus]
ignore = ["Xorg"]
[host]
cpus = 2
"""
CARD = FakeDevice(uuid="GPU-a", reserved=0)


class CardScene:
    """A machine whose cards, and the processes on them, are what was told last."""

    def __init__(self, folder: Path, library: Path, config: str = CONFIG, **settings: str) -> None:
        self.machine = SharedMachine(folder, config, **settings)
        self._file = folder / "nvml"
        stub = environment(library, Machine())
        visible = {"NVML_STUB_FILE": str(self._file), "LD_LIBRARY_PATH": stub["LD_LIBRARY_PATH"]}
        self.machine.settings |= visible
        self.tell(CARD)

    def tell(self, *cards: FakeDevice, init: int = 0, hang: int = 0) -> None:
        """Let NVML tell of these cards from its next start on, or hang for so many seconds."""
        new = self._file.with_suffix(".new")
        new.write_text(Machine(cards=cards, init=init, hang=hang).text())
        new.replace(self._file)

    def on_card(self, *processes: FakeProcess, besides: int = 0) -> None:
        """Let these processes use the card, and somebody who is not told `besides` bytes."""
        used = sum(each.memory for each in processes if each.memory != UNTOLD) + besides
        self.tell(replace(CARD, used=used, processes=processes))

    def foreign(self) -> int:
        return self.machine.all("SELECT foreign_use + outside FROM cell WHERE resource='gpu_mem'")[0][0]

    def seen(self) -> dict[str, Any]:
        row = self.machine.all("SELECT used, misses, why, seen_at FROM outside WHERE resource='gpu_mem'")
        return dict(zip(("used", "misses", "why", "seen_at"), row[0], strict=True)) if row else {}

    def until_foreign(self, mib: int) -> None:
        until(lambda: self.foreign() == mib, what=f"{mib} MiB of others, not {self.foreign()}")


@contextmanager
def stranger(name: str = "stranger") -> Generator[int]:
    """A process of nobody's."""
    command = [sys.executable, "-c", f"open('/proc/self/comm', 'w').write({name!r}); print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        yield process.pid
        process.kill()

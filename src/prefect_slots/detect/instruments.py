"""Instruments on serial lines and USB, each known by its stable name under `/dev/serial/by-id` and the like."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prefect_slots.detect.detector import Answer, Scene, unreadable
from prefect_slots.model import Cell, Finding, Instruments, Resource


@dataclass(frozen=True)
class InstrumentDetector:
    """Detector of the instruments of one declared resource: a cell of one unit each, taken whole."""

    instruments: Instruments

    @property
    def resources(self) -> frozenset[str]:
        """The one resource that stands for the instruments."""
        return frozenset({self.instruments.name})

    def detect(self, scene: Scene) -> Answer:
        """Return the instruments that are plugged in."""
        try:
            found = query_instruments(scene.root, self.instruments.patterns)
        except OSError as error:
            problem, remedy = f"cannot be looked for: {error}", "give this user access to /dev"
            return unreadable(self.instruments.name, problem, remedy, self.resources)
        return interpret_instruments(self.instruments, found)


def query_instruments(root: Path, patterns: Iterable[str]) -> dict[str, str]:
    """Return the devices that the patterns name, each with its device node of today (`ttyUSB0`).

    Raises:
        OSError: for a folder that exists and cannot be listed: its devices are not taken for unplugged.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        name = pattern.lstrip("/")
        folder = root / Path(name).parent
        if folder.exists():
            # `glob` takes a folder that may not be listed for an empty one.
            names = sorted(path.name for path in folder.iterdir())
            found.update(
                (f"/{Path(name).parent}/{entry}", (folder / entry).resolve().name)
                for entry in names
                if Path(entry).match(Path(name).name)
            )
    return found


def interpret_instruments(instruments: Instruments, found: dict[str, str]) -> Answer:
    """Return the plugged-in instruments; a pattern without any gets a finding."""
    findings = tuple(
        Finding(
            subject=instruments.name,
            problem=f"no device is called {pattern}",
            remedy="plug it in and switch it on; `ls -l /dev/*/by-id` shows what there is",
        )
        for pattern in instruments.patterns
        if not any(Path(name).match(pattern) for name in found)
    )
    cells = tuple(Cell(key=name, capacity=1, label=today) for name, today in sorted(found.items()))
    if not cells:
        return Answer(findings=findings)
    resource = Resource(name=instruments.name, unit=instruments.unit, cells=cells, origin="/dev")
    return Answer(resources=(resource,), findings=findings)

"""Instruments by their stable names, under a made-up `/dev`."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_slots.detect.detector import Answer, Scene
from prefect_slots.detect.instruments import InstrumentDetector, query_instruments
from prefect_slots.model.declaration import Instruments

SCOPES = "/dev/serial/by-id/usb-Rigol_*"
CAMERA = "/dev/v4l/by-id/usb-Basler-video-index0"


def plug(root: Path, name: str, device: str) -> None:
    place = root / name.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    (root / "dev" / device).touch()
    place.symlink_to(f"../../{device}")


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    plug(tmp_path, "/dev/serial/by-id/usb-Rigol_B-if00", "ttyUSB0")
    plug(tmp_path, "/dev/serial/by-id/usb-Rigol_A-if00", "ttyUSB1")
    plug(tmp_path, "/dev/serial/by-id/usb-FTDI_C-if00", "ttyUSB2")
    plug(tmp_path, CAMERA, "video0")
    return tmp_path


def look(root: Path, *patterns: str) -> Answer:
    return InstrumentDetector(Instruments(name="scope", patterns=patterns)).detect(Scene(root=root))


def test_each_instrument_is_a_cell_of_its_own_known_by_its_stable_name(bench: Path):
    answer = look(bench, SCOPES, CAMERA)
    (resource,) = answer.resources
    assert (resource.name, resource.unit, answer.findings) == ("scope", "device", ())
    assert [(cell.key, cell.capacity, cell.label) for cell in resource.cells] == [
        ("/dev/serial/by-id/usb-Rigol_A-if00", 1, "ttyUSB1"),
        ("/dev/serial/by-id/usb-Rigol_B-if00", 1, "ttyUSB0"),
        (CAMERA, 1, "video0"),
    ]


def test_an_instrument_that_two_patterns_name_is_one(bench: Path):
    (resource,) = look(bench, SCOPES, "/dev/serial/by-id/*A-if00").resources
    assert resource.capacity == 2


def test_an_instrument_that_is_unplugged_is_gone_and_told_and_the_others_stay(bench: Path):
    (bench / CAMERA.lstrip("/")).unlink()
    answer = look(bench, SCOPES, CAMERA)
    assert (answer.resources[0].capacity, answer.unknown) == (2, set())
    assert [(f.severity, f.problem) for f in answer.findings] == [("warning", f"no device is called {CAMERA}")]


def test_without_any_there_is_no_folder_and_no_resource(tmp_path: Path):
    answer = look(tmp_path, SCOPES)
    assert (answer.resources, answer.unknown, len(answer.findings)) == ((), set(), 1)


def test_a_folder_that_cannot_be_listed_is_unknown_and_not_empty(tmp_path: Path):
    # A file in its place refuses to be listed whoever asks; root may list any folder.
    (tmp_path / "dev/serial").mkdir(parents=True)
    (tmp_path / "dev/serial/by-id").touch()
    answer = look(tmp_path, SCOPES)
    assert (answer.resources, answer.unknown) == ((), {"scope"})
    assert answer.findings[0].severity == "error"


def test_a_name_that_points_nowhere_is_still_that_instrument(bench: Path):
    (bench / "dev/ttyUSB0").unlink()
    assert len(query_instruments(bench, [SCOPES])) == 2

"""Surveys in which something hangs: it is unknown, with a finding, and everything else is seen in time."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.nvml_stub.library import environment
from tests.support.nvml_stub.machines import FakeDevice, Machine

from prefect_slots.detect.detector import GROUP, Answer, Detector, Installed, Scene
from prefect_slots.detect.gpu.nvml import Nvml
from prefect_slots.detect.survey import Survey, survey
from prefect_slots.model.declaration import Declarations, GpuRules, HostRules
from prefect_slots.model.resource import Cell, Resource
from prefect_slots.system.threads import Lookout

HOST = HostRules(cpus=1, mem_mib=64)
BOARD = Resource(name="fpga", unit="boards", cells=(Cell(key="a", capacity=1),))


class Stuck:
    """A detector that hangs until the test is over."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event
        self.resources = frozenset({"dongle"})

    def detect(self, scene: Scene) -> Answer:  # noqa: ARG002
        self.event.wait(60)
        return Answer()


class Quick:
    """A detector that answers at once."""

    resources = frozenset({"fpga"})

    def detect(self, scene: Scene) -> Answer:  # noqa: ARG002
        return Answer(resources=(BOARD,))


@pytest.fixture
def over() -> Iterator[threading.Event]:
    """Set when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def told(seen: Survey) -> list[tuple[str, str, str]]:
    return [(finding.severity, finding.subject, finding.problem) for finding in seen.findings]


def test_a_detector_that_hangs_makes_its_own_resources_unknown(over: threading.Event, tmp_path: Path):
    detectors: dict[str, Detector] = {"stuck": Stuck(over), "toy": Quick()}
    seen = survey(
        Declarations(gpus=GpuRules(detect=False), host=HOST), {}, seconds=0.2, root=tmp_path,
        installed=lambda: Installed(detectors), lookout=Lookout(),
    )  # fmt: skip
    assert [resource.name for resource in seen.inventory.resources] == ["cpus", "fpga", "mem"]
    assert seen.inventory.unknown == {"dongle"}
    assert told(seen) == [("error", "stuck", "its detector did not answer within 0.2 s")]


def test_a_driver_that_hangs_makes_cards_unknown_and_is_not_asked_again_meanwhile(
    over: threading.Event, tmp_path: Path
):
    asked: list[int] = []

    def load() -> Nvml:
        asked.append(1)
        over.wait(60)
        raise ImportError("over")

    lookout = Lookout()
    for words in ("did not answer within 0.2 s", "has not answered for 0 s"):
        seen = survey(Declarations(host=HOST), {}, seconds=0.2, load=load, root=tmp_path, lookout=lookout)
        assert [resource.name for resource in seen.inventory.resources] == ["cpus", "mem"]
        assert seen.inventory.unknown == {"gpu_mem"}
        assert told(seen) == [("error", "gpu_mem", f"looking at NVIDIA's cards {words}")]
    assert asked == [1]


def test_a_package_that_hangs_while_it_is_imported_keeps_nothing_of_ours_from_looking(tmp_path: Path):
    (tmp_path / "slow_package.py").write_text("import time\ntime.sleep(60)\n")
    info = tmp_path / "slow_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nasic = slow_package:Asic\n")
    code = (
        "import json, sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\n"
        "from prefect_slots.detect.survey import survey\nfrom prefect_slots.model.declaration import Declarations\n"
        "seen = survey(Declarations(), {}, seconds=0.5, root=Path(sys.argv[1]))\n"
        "print(json.dumps([sorted(seen.inventory.unknown), 'cpus' in seen.inventory, "
        "[finding.subject for finding in seen.findings if finding.severity == 'error']]))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(child.stdout) == [["asic"], True, ["[detectors]"]]


def test_a_library_that_hangs_in_c_keeps_neither_the_survey_nor_the_end_of_the_process_waiting(
    nvml_library: Path, tmp_path: Path
):
    env = {
        **environment(nvml_library, Machine(hang=3600, cards=(FakeDevice(uuid="GPU-a"),))),
        "PREFECT_SLOTS_DETECT_SECONDS": "1",
        "COLUMNS": "160",
    }
    child = subprocess.run(
        [sys.executable, "-m", "prefect_slots", "detect"],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "error: gpu_mem: looking at NVIDIA's cards did not answer within 1 s" in child.stdout
    assert "unknown" in child.stdout

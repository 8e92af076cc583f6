"""TPU chips on a made-up bus."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.system.test_container import plug

from prefect_slots.detect.detector import Scene
from prefect_slots.detect.tpu import TpuDetector


def chips(root: Path, **env: str) -> int:
    answer = TpuDetector().detect(Scene(root=root, env=env))
    return sum(resource.capacity for resource in answer.resources)


@pytest.fixture
def four(tmp_path: Path) -> Path:
    for number in range(4):
        plug(tmp_path, f"0000:00:0{number}.0", "0x1ae0", "0x120000", "vfio-pci", device="0x0063")
    return tmp_path


def test_chips_are_one_cell_without_googles_network_card_and_others_devices(four: Path):
    plug(four, "0000:00:08.0", "0x1ae0", "0x020000", device="0x0042")
    plug(four, "0000:00:09.0", "0x10de", "0x030000", device="0x0063")
    answer = TpuDetector().detect(Scene(root=four))
    (resource,) = answer.resources
    assert (resource.name, resource.unit, answer.findings) == ("tpu", "chips", ())
    assert [(cell.key, cell.capacity, cell.label) for cell in resource.cells] == [("0", 4, "TPU v5e")]


def test_a_machine_without_chips_has_no_such_resource(tmp_path: Path):
    assert TpuDetector().detect(Scene(root=tmp_path, env={"TPU_VISIBLE_CHIPS": "0"})).resources == ()


@pytest.mark.parametrize(
    ("listed", "count", "findings"),
    [("", 4, 0), ("0,1", 2, 0), (" 2 ,0", 2, 0), ("0,0", 1, 0), ("1,4", 1, 1), ("x", 0, 1)],
)
def test_chips_that_a_process_may_not_see_are_not_offered(four: Path, listed: str, count: int, findings: int):
    assert chips(four, TPU_VISIBLE_CHIPS=listed) == count
    answer = TpuDetector().detect(Scene(root=four, env={"TPU_VISIBLE_CHIPS": listed}))
    assert len(answer.findings) == findings

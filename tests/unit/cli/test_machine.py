"""`detect` and `register`: found, declared, offered and changed resources of a machine, for people and programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.nvml_stub.library import build, environment
from tests.support.nvml_stub.machines import GIB, GPU_IS_LOST, FakeDevice, Machine
from tests.support.processes import SharedMachine

CONFIG = """
[gpus]
headroom = "1GiB"
exclude = ["GPU-c"]
[[gpus.card]]
uuid = "GPU-a"
memory = "40GiB"
[host]
cpus = 1
mem = "64MiB"
[license.matlab]
seats = 2
"""
MIG = FakeDevice(
    uuid="GPU-m", mig=1, pending=1, slots=7, instances=(FakeDevice(uuid="MIG-1", slot=4, total=5 * GIB, reserved=0),)
)
ALONE = FakeDevice(uuid="GPU-x", mode=3)
MACHINE = Machine(
    cards=(
        FakeDevice(uuid="GPU-a", used=5 * GIB),
        FakeDevice(uuid="GPU-b", v2_error=GPU_IS_LOST),
        FakeDevice(uuid="GPU-c"),
        MIG,
        ALONE,
    )
)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "slots.toml").write_text(CONFIG)
    return tmp_path / "slots.toml"


def detect(library: Path, config: Path, *options: str, machine: Machine = MACHINE, columns: int = 160) -> str:
    command = [sys.executable, "-m", "prefect_slots", "detect", "--config", config.name, *options]
    state = {"PREFECT_SLOTS_STATE_DIR": str(config.parent / "state")}
    env = {**environment(library, machine), **state, "COLUMNS": str(columns)}
    env.pop("CUDA_VISIBLE_DEVICES", None)
    return subprocess.run(command, env=env, cwd=config.parent, capture_output=True, text=True, check=True).stdout


def rows(text: str) -> dict[str, list[str]]:
    """The rows of the table by their cell, or by their resource where that is empty."""
    split = [[part.strip() for part in line.strip("│").split("│")] for line in text.splitlines() if "│" in line]
    return {row[1].split(" ")[0] or row[0]: row for row in split}


def test_what_was_found_declared_and_is_offered_stands_side_by_side(library: Path, config: Path):
    text = detect(library, config)
    shown = {cell: row[2:] for cell, row in rows(text).items()}
    assert shown == {
        "cpus": shown["cpus"],
        "mem": shown["mem"],
        "GPU-a": ["24GiB", "40GiB", "40GiB", "5GiB"],
        "GPU-b": ["", "", "unknown", "unknown"],
        "GPU-c": ["24GiB", "", "nothing", ""],
        "GPU-m": ["", "", "nothing", ""],
        "MIG-1": ["5GiB", "", "4GiB", ""],
        "license.matlab": ["", "2 seats", "2 seats", ""],
        "GPU-x": ["24GiB", "", "23040MiB", ""],
    }
    assert shown["cpus"][1:] == ["1 core", "1 core", ""]
    assert shown["mem"][1:] == ["64MiB", "64MiB", ""]
    assert "warning: GPU-a: declared 40GiB, but 23040MiB can be used" in text
    assert "error: GPU-b: cannot be read: GPU is lost" in text


def reasons(text: str) -> dict[str, str]:
    """The lines under the table by their cell, without spaces: where a line is broken none is left of one."""
    lines = text.split("Where the numbers come from\n")[1].splitlines()
    told: dict[str, str] = {}
    for line in lines[: next(n for n, line in enumerate(lines) if line.startswith(("error:", "warning:", "info:")))]:
        cell = line.split(" ")[0] or list(told)[-1]
        told[cell] = told.get(cell, "") + line.removeprefix(cell).replace(" ", "")
    return told


@pytest.mark.parametrize("columns", [80, 160])
def test_explained_each_number_says_where_it_comes_from_and_each_nothing_why(library: Path, config: Path, columns: int):
    text = detect(library, config, "--explain", columns=columns)
    why = reasons(text)
    told = {
        "GPU-a": str(config),
        "GPU-b": "cannot be read: GPU is lost; its memory cannot be read: GPU is lost",
        "GPU-c": "left out by [gpus] exclude",
        "GPU-m": "in MIG mode: its instances are offered instead",
        "MIG-1": "nvml, less 1GiB headroom",
        "GPU-x": "nvml, less 512MiB that the driver keeps, less 1GiB headroom, "
        "one holder at a time (EXCLUSIVE_PROCESS)",
    }
    assert {cell: why[cell] for cell in told} == {cell: words.replace(" ", "") for cell, words in told.items()}
    # Only what a card is called may be folded.
    assert rows(text).keys() >= rows(detect(library, config)).keys()
    assert all(len(line) <= columns for line in text.splitlines())


def test_programs_read_the_same(library: Path, config: Path):
    data: dict[str, Any] = json.loads(detect(library, config, "--json"))
    assert data["unknown"] == ["GPU-b"]
    others = {use["key"]: (use["used"], use["why"]) for use in data["others"]}
    assert (others["GPU-a"], others["MIG-1"]) == ((5 * 1024, ""), (0, ""))
    assert others["GPU-b"] == (None, "its memory cannot be read: GPU is lost")
    assert not (config.parent / "state").exists()
    cells = {cell["key"]: cell for cell in data["cells"] if cell["resource"] == "gpu_mem"}
    assert cells.keys() == {"GPU-a", "GPU-b", "GPU-c", "GPU-m", "MIG-1", "GPU-x"}
    names = ("found", "declared", "offered")
    assert [cells["GPU-a"][name] for name in names] == [24576, 40960, 40960]
    assert [cells["GPU-c"][name] for name in names] == [24576, None, None]
    offered = {
        cell["key"]: cell["capacity"] for r in data["resources"] if r["name"] == "gpu_mem" for cell in r["cells"]
    }
    assert offered == {key: cell["offered"] for key, cell in cells.items() if cell["offered"] is not None}


def test_a_uuid_is_shown_by_its_beginning_where_that_names_one_card(library: Path, config: Path):
    rest = "-1111-2222-3333-444444444444"
    uuids = [f"GPU-aaaaaaaa{rest}", f"GPU-bbbbbbbb{rest}", f"GPU-bbbbbbbb{rest[:-1]}5"]
    machine = Machine(cards=tuple(FakeDevice(uuid=uuid) for uuid in uuids))
    shown = rows(detect(library, config, machine=machine))
    assert {cell for cell in shown if cell.startswith("GPU-")} == {"GPU-a", "GPU-aaaaaaaa", *uuids[1:]}


def test_cards_that_do_not_even_tell_their_names_are_shown_as_unknown(library: Path, config: Path):
    lost = Machine(cards=(FakeDevice(uuid_error=GPU_IS_LOST), FakeDevice(uuid="GPU-d")))
    shown = rows(detect(library, config, machine=lost))
    assert shown["GPU-d"][4] == "23040MiB"
    assert shown["what"] == ["gpu_mem", "what else there may be", "", "", "unknown", ""]


def test_a_driver_that_hangs_is_waited_for_once_and_not_once_for_what_others_use(library: Path, config: Path):
    code = (
        "import threading\nfrom prefect_slots.cli.machine import detect\n"
        "detect()\nprint(sorted(thread.name for thread in threading.enumerate()))\n"
    )
    hanging = environment(library, Machine(hang=3600, cards=(FakeDevice(uuid="GPU-a"),)))
    # Not the user's own ledger, which may be of another version.
    state = {"PREFECT_SLOTS_STATE_DIR": str(config.parent / "state")}
    env = {**hanging, **state, "PREFECT_SLOTS_DETECT_SECONDS": "1", "PREFECT_SLOTS_CONFIG": str(config)}
    child = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=config.parent, capture_output=True, text=True, timeout=60, check=True
    )
    assert "did not answer within 1 s" in child.stdout
    assert child.stdout.splitlines()[-1] == str(["MainThread", "NVIDIA's cards"])


SCANNER = """
[gpus]
detect = false
[host]
mem = "64MiB"
[resources.scanner]
capacity = CAPACITY
"""


def register(box: SharedMachine, *options: str) -> str:
    command = [sys.executable, "-m", "prefect_slots", "register", *options]
    return subprocess.run(command, env=box.env, capture_output=True, text=True, check=True).stdout


def test_a_dry_run_tells_what_would_change_and_changes_nothing(tmp_path: Path):
    box = SharedMachine(tmp_path, SCANNER.replace("CAPACITY", "1"), worker="box")
    assert "scanner 0 (0) is new, with 1 units" in register(box)
    assert "scanner" not in register(box)
    (tmp_path / "prefect-slots.toml").write_text(SCANNER.replace("CAPACITY", "3"))
    for _ in range(2):
        told = register(box, "--dry-run")
        assert "scanner 0 (0) now has 3 units" in told
        assert "mem" not in told
        assert "box would be registered" in told
    assert box.all("SELECT capacity FROM cell WHERE resource='scanner'") == [(1,)]

"""Cards that are lost, forbidden, taken out or put back between two registrations, as a driver tells of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tests.support.nvml_stub.machines as fake
from tests.support.boxes import Box, tell
from tests.support.nvml_stub.library import build, environment
from tests.support.nvml_stub.machines import GIB, FakeDevice, Machine
from tests.support.polling import until

A = FakeDevice(uuid="GPU-a", reserved=0)
B = FakeDevice(uuid="GPU-b", reserved=0)
MIG = FakeDevice(
    uuid="GPU-b",
    mig=1,
    pending=1,
    slots=7,
    instances=(FakeDevice(uuid="MIG-b1", slot=3, total=5 * GIB, reserved=0),),
)

Register = Callable[[Machine], dict[str, bool]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def register(library: Path, tmp_path: Path) -> Register:
    """Register what a driver tells of; the answer is which cells are present."""
    state = tmp_path / "state"

    def run(machine: Machine) -> dict[str, bool]:
        settings = {"PREFECT_SLOTS_STATE_DIR": str(state), "PREFECT_SLOTS_COORDINATION": "local"}
        env = {**environment(library, machine), **settings}
        env.pop("CUDA_VISIBLE_DEVICES", None)
        command = [sys.executable, "-m", "prefect_slots", "register", "--json"]
        child = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
        (gpu_mem,) = (r for r in json.loads(child.stdout)["resources"] if r["name"] == "gpu_mem")
        assert [cell["id"][1] for cell in gpu_mem["cells"]] == list(range(len(gpu_mem["cells"]))), "a number changed"
        return {cell["key"]: cell["present"] for cell in gpu_mem["cells"]}

    return run


@pytest.mark.parametrize(
    "machine",
    [
        Machine(init=fake.LIB_RM_VERSION_MISMATCH),
        Machine(count=fake.UNKNOWN),
        Machine(cards=(A, FakeDevice(uuid="GPU-b", v2_error=fake.GPU_IS_LOST))),
        Machine(cards=(A, FakeDevice(uuid_error=fake.GPU_IS_LOST))),
        Machine(cards=(FakeDevice(handle_error=fake.NO_PERMISSION), FakeDevice(handle_error=fake.NO_PERMISSION))),
    ],
    ids=["upgraded driver", "driver that cannot count", "lost card", "lost card without a name", "forbidden cards"],
)
def test_what_cannot_be_read_stays_registered(register: Register, machine: Machine):
    assert register(Machine(cards=(A, B))) == {"GPU-a": True, "GPU-b": True}
    assert register(machine) == {"GPU-a": True, "GPU-b": True}


def test_a_card_that_is_taken_out_is_gone_and_has_its_number_when_it_is_back(register: Register):
    register(Machine(cards=(A, B)))
    assert register(Machine(cards=(B,))) == {"GPU-a": False, "GPU-b": True}
    assert register(Machine(cards=(B, A))) == {"GPU-a": True, "GPU-b": True}


def test_a_card_that_is_cut_up_gives_way_to_its_instances(register: Register):
    register(Machine(cards=(A, B)))
    assert register(Machine(cards=(A, MIG))) == {"GPU-a": True, "GPU-b": False, "MIG-b1": True}


HOLD = """
import sys
from prefect_slots import requires
with requires(gpu_mem=1) as grant:
    print(grant.devices[0].uuid, grant.devices[0].memory_mib, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def box(library: Path, tmp_path: Path) -> Box:
    """A machine without a server, whose driver tells what `NVML_STUB` says when a process starts."""
    made = Box(tmp_path, None, '[settings]\nworker = "{name}"\n[host]\ncpus = 1\nmem = "1GiB"\n')
    made.env |= {"LD_LIBRARY_PATH": str(library / "new"), "NVML_STUB": "", "PREFECT_SLOTS_COORDINATION": "local"}
    return made


def has(box: Box, *cards: FakeDevice) -> None:
    box.env["NVML_STUB"] = Machine(cards=cards).text()


def registered(box: Box) -> list[str]:
    """Register, and return what a person must know."""
    out = box.run("from prefect_slots.cli import main; main()", "register", "--json")
    return [f["subject"] + " " + f["problem"] for f in json.loads(out)["findings"] if f["severity"] == "error"]


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        pytest.param((A, FakeDevice(uuid="GPU-b", v2_error=fake.GPU_IS_LOST)), "broken", id="lost"),
        pytest.param(
            (A, FakeDevice(handle_error=fake.GPU_IS_LOST)), "broken", id="lost without a name", marks=pytest.mark.slow
        ),
        pytest.param((A,), "gone", id="taken out", marks=pytest.mark.slow),
    ],
)
def test_a_card_that_is_lost_is_granted_no_more_and_its_holder_is_named(
    box: Box, broken: tuple[FakeDevice, ...], word: str
):
    has(box, B)
    assert registered(box) == []
    with box.start(HOLD) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().split()[0] == "GPU-b"
        has(box, *broken)
        (told,) = [text for text in registered(box) if "holds" in text]
        assert told.startswith(f"GPU-b is {word}, and '")
        assert told.endswith(f"(process {holder.pid}) holds 1GiB of it")
        assert [box.run(HOLD).split()[0] for _ in range(2)] == ["GPU-a"] * 2
        holder.communicate("\n", timeout=30)
    has(box, A, B)
    assert registered(box) == []


def test_a_card_in_exclusive_mode_is_held_whole_by_one(box: Box):
    has(box, FakeDevice(uuid="GPU-a", mode=3, reserved=0))
    assert registered(box) == []
    with box.start(HOLD) as first, box.start(HOLD) as second:
        until(lambda: (box.rows("held"), box.rows("ticket")) == (1, 1), what="one that holds and one that waits")
        for process in (first, second):
            tell(process)
        said = [process.communicate(timeout=30)[0].split() for process in (first, second)]
    assert said == [["GPU-a", str(24 * 1024)]] * 2

"""What the holder of a grant sees: its cards, an environment that pins them, amounts; `off` grants at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.processes import ROOT, SharedMachine

from prefect_slots import current_grant, requires
from prefect_slots.errors import ConfigError
from prefect_slots.requiring.grant import Device

UUIDS = ("GPU-test-0", "GPU-test-1")


def test_cards_are_named_by_uuid_with_what_may_be_used_of_them(machine: SharedMachine) -> None:
    with requires(gpu_mem=8, license="matlab") as grant:
        (card,) = grant.devices
        assert card == Device(uuid="GPU-test-0", name="Test card", index=0, memory_mib=8192)
        assert grant.amounts == {"gpu_mem": 8192, "license.matlab": 1}
        assert grant.describe() == "gpu_mem:0=8192, license.matlab:0=1"
        assert grant.id[:8] in repr(grant)
        assert grant.label.startswith("with block (test_grant.py:")
    assert "ended" in repr(grant)
    assert machine.count("held") == 0


@pytest.mark.usefixtures("machine")
def test_several_cards_are_different_cards() -> None:
    with requires(gpus=2) as grant:
        assert tuple(card.uuid for card in grant.devices) == UUIDS
        assert grant.amounts == {"gpu_mem": 49152}
        assert grant.env["CUDA_VISIBLE_DEVICES"] == ",".join(UUIDS)


@pytest.mark.usefixtures("machine")
def test_a_part_of_a_card_is_a_part_of_its_memory() -> None:
    with requires(gpus=0.25) as quarter, requires(license="matlab"):
        assert quarter.amounts == {"gpu_mem": 6144}


def test_the_environment_pins_and_names_the_grant_and_this_process_s_own_stays(machine: SharedMachine) -> None:
    before = dict(os.environ)
    with requires(gpu_mem=8) as grant:
        env = grant.env
        assert env["CUDA_VISIBLE_DEVICES"] == "GPU-test-0"
        assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        ledger, _, ticket = env["PREFECT_SLOTS_GRANT"].partition(":")
        assert (ledger, ticket) == (machine.all("SELECT value FROM meta WHERE key='ledger_id'")[0][0], grant.id)
        assert env["PREFECT_SLOTS_STATE_DIR"] == str(machine.state.resolve())
        assert dict(os.environ) == before


@pytest.mark.usefixtures("machine")
def test_without_a_card_nothing_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with requires(scanner=1) as grant:
        assert grant.devices == ()
        assert grant.device == "cpu"
        assert "CUDA_VISIBLE_DEVICES" not in grant.env


TWO_OF_INTELS = """
[gpus]
detect = false
[[gpus.card]]
uuid = "INTEL-0000:03:00.0"
memory = "16GiB"
[[gpus.card]]
uuid = "INTEL-0000:83:00.0"
memory = "16GiB"
[[gpus.card]]
uuid = "TPX-7"
memory = "64GiB"
"""


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SharedMachine:
    """A machine with two GPUs of Intel's and one of a vendor that nobody knows here."""
    place = SharedMachine(tmp_path, TWO_OF_INTELS)
    for name, value in place.settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return place


@pytest.mark.usefixtures("others")
def test_a_gpu_that_is_none_of_cudas_is_pinned_by_its_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with requires(gpu_mem=16) as one:
        assert one.devices[0].uuid == "INTEL-0000:03:00.0"
        assert one.env["ZE_AFFINITY_MASK"] == "0"
        assert "CUDA_VISIBLE_DEVICES" not in one.env
        with pytest.raises(ConfigError, match="SlotPool"):
            _ = one.device
        monkeypatch.setenv("ZE_AFFINITY_MASK", "0")
        assert one.device == "xpu:0"


@pytest.mark.usefixtures("others")
def test_a_gpu_to_which_no_process_can_be_pinned_has_one_holder_at_a_time() -> None:
    with requires(gpu_mem=32) as grant:
        assert grant.amounts == {"gpu_mem": 65536}


@pytest.mark.usefixtures("others")
def test_a_gpu_of_no_known_vendor_has_no_device_name(caplog: pytest.LogCaptureFixture) -> None:
    with requires(gpu_mem=64) as grant:
        assert grant.devices[0].uuid == "TPX-7"
        assert "CUDA_VISIBLE_DEVICES" not in grant.env
        (said,) = {record.getMessage() for record in caplog.records if "TPX-7" in record.getMessage()}
        assert "no variable pins a process to this GPU" in said
        with pytest.raises(ConfigError, match="TPX-7"):
            _ = grant.device


@pytest.mark.usefixtures("machine")
def test_the_device_follows_what_is_visible_now(monkeypatch: pytest.MonkeyPatch) -> None:
    with requires(gpu_mem=24), requires(gpu_mem=24) as drawn:
        assert drawn.device == "cuda:0"
    with requires(gpus=2) as both:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-test-1,GPU-test-0")
        assert both.device == "cuda:1"


def test_off_grants_at_once_and_counts_nothing(machine: SharedMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SLOTS_COORDINATION", "off")
    with requires(gpu_mem=4000) as grant, requires(nonsense=3):
        assert (grant.id, grant.amounts, grant.devices, grant.device, grant.token) == ("", {}, (), "cpu", "")
        assert "PREFECT_SLOTS_GRANT" not in grant.env
        assert "off" in grant.describe()
        assert current_grant() is not None
    assert current_grant() is None
    assert not machine.state.exists()


def test_both_needs_a_server(machine: SharedMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SLOTS_COORDINATION", "both")
    monkeypatch.chdir(machine.state.parent)
    with pytest.raises(ConfigError, match="PREFECT_API_URL"), requires(scanner=1):
        pass


def test_auto_without_a_server_is_local(machine: SharedMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SLOTS_COORDINATION", "auto")
    monkeypatch.chdir(machine.state.parent)
    with requires(scanner=1):
        assert machine.count("held") == 1


IMPORTS = """
import sys
import prefect_slots
prefect_slots.requires, prefect_slots.current_grant, prefect_slots.Grant
heavy = {"prefect", "pynvml", "httpx", "rich", "cyclopts", "numpy"} & set(sys.modules)
print(sorted(heavy))
"""
USES = """
from prefect_slots import requires
with requires(scanner=1):
    pass
import sys
print(sorted({"prefect", "httpx", "rich", "cyclopts"} & set(sys.modules)))
"""


def test_importing_loads_neither_prefect_nor_pynvml() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_local_use_loads_no_prefect_either(machine: SharedMachine, tmp_path: Path) -> None:
    for mode in ("local", "auto"):
        env = {**machine.env, "PREFECT_SLOTS_COORDINATION": mode, "PREFECT_HOME": str(tmp_path / "none")}
        done = subprocess.run(
            [sys.executable, "-c", USES], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout == "[]\n"

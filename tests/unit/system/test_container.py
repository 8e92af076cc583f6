"""Where a process runs, read from made-up trees and from this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_slots.system.container import Surroundings, query_surroundings


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def plug(root: Path, address: str, vendor: str, kind: str, driver: str | None = None, device: str = "0x2204") -> None:
    folder = f"sys/bus/pci/devices/{address}"
    put(root, {f"{folder}/vendor": vendor + "\n", f"{folder}/device": device + "\n", f"{folder}/class": kind + "\n"})
    if driver is not None:
        link(root / folder / "driver", f"../../../bus/pci/drivers/{driver}")


def on_host(root: Path) -> Path:
    link(root / "proc/self/ns/pid", "pid:[4026531836]")
    return root


@pytest.mark.parametrize(
    ("files", "env", "runs"),
    [
        ({"tmp/nvidia-mps/control": ""}, {}, True),
        ({"tmp/nvidia-mps/control": "", "tmp/nvidia-mps/nvidia-cuda-mps-control.pid": "77\n"}, {}, False),
        (
            {"tmp/nvidia-mps/control": "", "tmp/nvidia-mps/nvidia-cuda-mps-control.pid": "77\n", "proc/77/comm": ""},
            {},
            True,
        ),
        ({"run/mps/control": ""}, {"CUDA_MPS_PIPE_DIRECTORY": "/run/mps"}, True),
        ({"tmp/nvidia-mps/control": ""}, {"CUDA_MPS_PIPE_DIRECTORY": "/run/mps"}, False),
        ({}, {}, False),
    ],
    ids=["pipe", "daemon that was killed", "daemon that lives", "elsewhere", "not there", "none"],
)
def test_the_multi_process_service_is_known_by_its_pipe(
    tmp_path: Path, files: dict[str, str], env: dict[str, str], runs: bool
):
    assert query_surroundings(put(on_host(tmp_path), files), env).mps is runs


def test_a_plain_host_is_nothing_special_and_its_process_ids_are_true(tmp_path: Path):
    put(on_host(tmp_path), {"proc/sys/kernel/osrelease": "6.8.0-generic\n"})
    assert query_surroundings(tmp_path, {}) == Surroundings()
    assert query_surroundings(tmp_path, {}).why_pids_mislead == ""


@pytest.mark.parametrize("release", ["5.15.153.1-microsoft-standard-WSL2\n", "4.4.0-19041-Microsoft\n"])
def test_wsl_is_known_by_its_kernel(tmp_path: Path, release: str):
    around = query_surroundings(put(on_host(tmp_path), {"proc/sys/kernel/osrelease": release}), {})
    assert around == Surroundings(wsl=True)
    assert "WSL" in around.why_pids_mislead


def test_windows_driver_is_known_by_its_library(tmp_path: Path):
    put(on_host(tmp_path), {"usr/lib/wsl/lib/libnvidia-ml.so.1": ""})
    assert query_surroundings(tmp_path, {}) == Surroundings(wsl_library=True)


def test_another_pid_namespace_is_not_the_hosts(tmp_path: Path):
    link(tmp_path / "proc/self/ns/pid", "pid:[4026532561]")
    around = query_surroundings(tmp_path, {})
    assert around == Surroundings(own_pids=True)
    assert "--pid=host" in around.why_pids_mislead


def test_process_ids_that_cannot_be_judged_are_not_believed(tmp_path: Path):
    assert query_surroundings(tmp_path, {}) == Surroundings(own_pids=True)


@pytest.mark.parametrize(
    "files",
    [{"etc/nv_tegra_release": "# R35\n"}, {"proc/device-tree/compatible": "nvidia,p3737\0nvidia,tegra234\0"}],
)
def test_a_jetson_is_known_by_its_release_or_its_device_tree(tmp_path: Path, files: dict[str, str]):
    assert query_surroundings(put(on_host(tmp_path), files), {}) == Surroundings(tegra=True)


def test_cards_on_the_bus_are_counted_without_their_audio_and_without_those_given_away(tmp_path: Path):
    on_host(tmp_path)
    plug(tmp_path, "0000:01:00.0", "0x10de", "0x030000", "nouveau")
    plug(tmp_path, "0000:01:00.1", "0x10de", "0x040300")
    plug(tmp_path, "0000:02:00.0", "0x10de", "0x030200")
    plug(tmp_path, "0000:03:00.0", "0x10de", "0x030200", "vfio-pci")
    plug(tmp_path, "0000:04:00.0", "0x1002", "0x030000", "amdgpu")
    assert query_surroundings(tmp_path, {}) == Surroundings(nvidia_gpus=2)


def test_this_machine_can_be_looked_at():
    assert query_surroundings(Path("/"), {}).nvidia_gpus >= 0

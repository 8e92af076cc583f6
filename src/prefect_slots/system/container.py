"""Where this process runs, as far as it decides what a driver's answers mean: WSL, a container, a Jetson.

The folder that stands for `/` is an argument. What cannot be read is taken for the case in which less is believed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prefect_slots.system.processes import has_own_pids
from prefect_slots.system.sysfs import query_pci, text_of

_NVIDIA: Final = "0x10de"
_MPS_VARIABLE: Final = "CUDA_MPS_PIPE_DIRECTORY"
_MPS_FOLDER: Final = "/tmp/nvidia-mps"
_WSL_LIBRARY: Final = "usr/lib/wsl/lib/libnvidia-ml.so.1"


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where this process runs.

    Attributes:
        wsl: Whether Linux runs under Windows.
        wsl_library: Whether Windows has put its NVIDIA driver into this Linux.
        own_pids: Whether process ids here are others than the host's, as in most containers.
        tegra: Whether this is a Jetson.
        nvidia_cards: NVIDIA's cards on the bus that are not given to a virtual machine.
        mps: Whether NVIDIA's Multi-Process Service runs, whose clients are one process to a card.
    """

    wsl: bool = False
    wsl_library: bool = False
    own_pids: bool = False
    tegra: bool = False
    nvidia_cards: int = 0
    mps: bool = False

    @property
    def why_pids_mislead(self) -> str:
        """Why a driver's process ids say nothing about processes here; empty where they can be trusted."""
        if self.wsl:
            return "under WSL the driver does not tell which processes use a card"
        if self.own_pids:
            return "in this container process ids are not the host's (it was not started with --pid=host)"
        return ""


def query_surroundings(root: Path, env: Mapping[str, str]) -> Surroundings:
    """Look where a process with that environment runs. Never raises."""
    release = text_of(root / "proc/sys/kernel/osrelease").lower()
    own_pids = has_own_pids(root)
    compatible = text_of(root / "proc/device-tree/compatible")
    return Surroundings(
        wsl="microsoft" in release,
        wsl_library=(root / _WSL_LIBRARY).exists(),
        own_pids=own_pids,
        tegra=(root / "etc/nv_tegra_release").exists() or "nvidia,tegra" in compatible,
        nvidia_cards=sum(
            device.vendor == _NVIDIA and device.draws and device.driver != "vfio-pci" for device in query_pci(root)
        ),
        mps=_has_mps(root, env.get(_MPS_VARIABLE) or _MPS_FOLDER, own_pids=own_pids),
    )


def _has_mps(root: Path, folder: str, *, own_pids: bool) -> bool:
    """Tell whether the control daemon of MPS answers in that folder: its pipe outlives it when it is killed."""
    pipe = root / folder.lstrip("/")
    daemon = text_of(pipe / "nvidia-cuda-mps-control.pid")
    try:
        return (pipe / "control").exists() and (own_pids or not daemon or (root / "proc" / daemon).exists())
    except OSError:
        return False

"""The surroundings of this process that decide how a driver's answers are read: WSL, a container, a Jetson, MPS.

The folder that stands for `/` is an argument. A fact that cannot be read is taken for the case in which the driver is
believed less.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from prefect_slots.system import processes, sysfs

# NVIDIA's number in the PCI registry.
_NVIDIA = "0x10de"
_MPS_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"
# The folder of the control daemon's pipe if the variable names none.
_MPS_FOLDER = "/tmp/nvidia-mps"
# Windows puts its driver's libraries here.
_WSL_LIBRARY = "usr/lib/wsl/lib/libnvidia-ml.so.1"


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """The surroundings of this process.

    Attributes:
        wsl: Linux runs under Windows.
        wsl_library: Windows has put its NVIDIA driver into this Linux.
        own_pids: Process ids here are others than the host's, as in most containers.
        tegra: The machine is a Jetson.
        nvidia_gpus: Number of NVIDIA GPUs on the bus that are not given to a virtual machine.
        mps: NVIDIA's Multi-Process Service runs; a GPU sees its clients as one process.
    """

    wsl: bool = False
    wsl_library: bool = False
    own_pids: bool = False
    tegra: bool = False
    nvidia_gpus: int = 0
    mps: bool = False

    @property
    def why_pids_mislead(self) -> str:
        """Reason why a driver's process ids say nothing about processes here; empty where they can be trusted."""
        if self.wsl:
            return "under WSL the driver does not tell which processes use a card"
        if self.own_pids:
            return "in this container process ids are not the host's (it was not started with --pid=host)"
        return ""


def query_pids(root: Path) -> Surroundings:
    """Return the part of the surroundings that decides on trust in process ids. Never raises."""
    release = sysfs.text_of(root / "proc/sys/kernel/osrelease").lower()
    return Surroundings(wsl="microsoft" in release, own_pids=processes.has_own_pids(root))


def query_surroundings(root: Path, env: Mapping[str, str]) -> Surroundings:
    """Return the surroundings of a process with that environment. Never raises."""
    pids = query_pids(root)
    # A container on a Jetson has no release file, but the kernel shows it the device tree.
    compatible = sysfs.text_of(root / "proc/device-tree/compatible")
    return replace(
        pids,
        wsl_library=(root / _WSL_LIBRARY).exists(),
        tegra=(root / "etc/nv_tegra_release").exists() or "nvidia,tegra" in compatible,
        nvidia_gpus=sum(
            device.vendor == _NVIDIA and device.draws and device.driver != "vfio-pci"
            for device in sysfs.query_pci(root)
        ),
        mps=_has_mps(root, env.get(_MPS_VARIABLE) or _MPS_FOLDER, own_pids=pids.own_pids),
    )


def _has_mps(root: Path, folder: str, *, own_pids: bool) -> bool:
    """Return whether the control daemon of MPS runs with that folder."""
    pipe = root / folder.lstrip("/")
    # Its pipe stays behind when the daemon is killed, and in a pid namespace its process cannot be looked up.
    daemon = sysfs.text_of(pipe / "nvidia-cuda-mps-control.pid")
    try:
        return (pipe / "control").exists() and (own_pids or not daemon or (root / "proc" / daemon).exists())
    except OSError:
        return False

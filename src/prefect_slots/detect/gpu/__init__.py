"""GPUs of each vendor.

nvml          NVIDIA's Python binding of NVML, typed
nvidia        NVIDIA's GPUs and MIG instances by NVML
cuda_visible  the part of them that `CUDA_VISIBLE_DEVICES` leaves, by CUDA's own rules
amd           AMD's GPUs by sysfs
intel         Intel's GPUs by sysfs and xpu-smi
apple         Apple's built-in GPU by sysctl
usage         memory in use of each GPU: ours and others'
drm_usage     memory in use of AMD's and Intel's GPUs
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect_slots.detect.detector import Detector


def shipped() -> dict[str, Detector]:
    """Return the detectors of GPUs that a configuration can switch off, by name; NVIDIA's is not among them."""
    # Imported here because `detect.detector` imports this package: a detector's scene holds NVIDIA's binding.
    from prefect_slots.detect.gpu.amd import AmdDetector
    from prefect_slots.detect.gpu.apple import AppleDetector
    from prefect_slots.detect.gpu.intel import IntelDetector

    return {"amd": AmdDetector(), "apple": AppleDetector(), "intel": IntelDetector()}

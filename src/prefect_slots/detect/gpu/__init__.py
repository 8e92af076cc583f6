"""GPUs of each vendor.

nvml          NVIDIA's Python binding of NVML, typed
nvidia        NVIDIA's GPUs and MIG instances by NVML
cuda_visible  the part of them that `CUDA_VISIBLE_DEVICES` leaves, by CUDA's own rules
amd           AMD's GPUs by sysfs
intel         Intel's GPUs by sysfs and xpu-smi
apple         Apple's built-in GPU by sysctl
offer         the offer of `gpu_mem` under construction, for the detectors of all vendors
usage         memory in use of each GPU: ours and others'
drm_usage     memory in use of AMD's and Intel's GPUs
"""

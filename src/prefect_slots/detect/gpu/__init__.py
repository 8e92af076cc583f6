"""GPUs of each vendor.

cuda_visible  which cards `CUDA_VISIBLE_DEVICES` leaves, by CUDA's own rules
nvml          NVIDIA's Python binding of NVML, typed
nvidia_query  NVIDIA cards and MIG instances, as NVML tells
nvidia        what the cards that were read offer
usage         what is used of each card now, and by whom: ours or others'
amd           AMD's cards, by sysfs
apple         Apple's built-in GPU, by sysctl
intel         Intel's cards, by sysfs and xpu-smi
drm_usage     what is used of AMD's and Intel's cards
"""

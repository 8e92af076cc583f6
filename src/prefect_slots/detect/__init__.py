"""What this machine has: pure `parse_*` and `interpret_*` over thin `query_*`.

answer    what one probe answers: resources, findings, and what it could not read
visible   which cards `CUDA_VISIBLE_DEVICES` leaves, by CUDA's own rules
binding   NVIDIA's Python binding of NVML, typed
nvml      NVIDIA cards and MIG instances, as NVML tells
cards     what the cards that were read offer
pci       the devices on the PCI bus
surroundings  WSL, a container, a Jetson: what decides how far a driver is believed
use       what is used of each card now, and by whom: ours or others'
host      cores and memory, as affinity and cgroups leave them
host_use  what processes use of the host's memory
detector  the protocol of all that looks for something, and those that other packages bring
amd       AMD's cards, by sysfs
apple     Apple's built-in GPU, by sysctl
drm         cards as the kernel's graphics drivers list them
intel     Intel's cards, by sysfs and xpu-smi
drm_use   what is used of AMD's and Intel's cards
tpu       Google's TPU chips, by the PCI bus
disk      scratch space: what a folder's disk has free
instruments  serial and USB instruments by their stable names
encoders  sessions of NVIDIA's video encoder, of which a person declares the most
licences  what licence servers count, a parser per vendor
declared  cards, licences and resources that a person wrote down
lookout   sends looks in threads of their own, and leaves behind those that hang
survey    runs every probe and merges the answers; a failing probe never loses the others

Nothing here decides who gets what, reads a configuration file, or writes anything down.
"""

"""What this machine has: pure `parse_*` and `interpret_*` over thin `query_*`.

answer    what one probe answers: resources, findings, and what it could not read
visible   which cards `CUDA_VISIBLE_DEVICES` leaves, by CUDA's own rules
binding   NVIDIA's Python binding of NVML, typed
nvml      NVIDIA cards and MIG instances, as NVML tells
host      cores and memory, as affinity and cgroups leave them
licences  what licence servers count, a parser per vendor
declared  cards, licences and resources that a person wrote down
survey    runs every probe and merges the answers; a failing probe never loses the others

Nothing here decides who gets what, reads a configuration file, or writes anything down.
"""

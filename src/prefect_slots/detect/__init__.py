"""Detection: the resources that this machine has.

survey       one inventory from the answers of all detectors; a failed detector never loses the others' answers
detector     the protocol of detectors, their answers, and the detectors of other packages
declared     GPUs, licenses and resources that a person wrote down
host         cores and memory, within affinity and cgroups
disk         scratch space: the free space of a folder
instruments  serial and USB instruments by their stable names
encoders     sessions of NVIDIA's video encoder, with a declared maximum
tpu          Google's TPU chips on the PCI bus
gpu          GPUs of each vendor, and their memory in use
licenses     seats that license servers count, with a parser per vendor

Detection decides nothing about requests, reads no configuration file and writes nothing.
"""

"""What this machine has: pure `parse_*` and `interpret_*` over thin `query_*`.

answer       what one probe answers: resources, findings, and what it could not read
host         cores and memory, as affinity and cgroups leave them
detector     the protocol of all that looks for something, and those that other packages bring
tpu          Google's TPU chips, by the PCI bus
disk         scratch space: what a folder's disk has free
instruments  serial and USB instruments by their stable names
encoders     sessions of NVIDIA's video encoder, of which a person declares the most
gpu          cards of each vendor, and what is used of them
licenses     what licence servers count, a parser per vendor
declared     cards, licences and resources that a person wrote down
survey       runs every probe and merges the answers; a failing probe never loses the others

Nothing here decides who gets what, reads a configuration file, or writes anything down.
"""

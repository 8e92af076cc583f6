"""The operating system, with no word of the domain.

pci        the devices on the PCI bus
container  WSL, a container, a Jetson: what decides how far a driver is believed
processes  what processes use of the host's memory
drm        cards as the kernel's graphics drivers list them
threads    sends looks in threads of their own, and leaves behind those that hang
commands   one run of a vendor's program: no shell, a time limit, nothing left behind
locks      who keeps it from being written
clock      pauses that differ between processes, without the user's random numbers
"""

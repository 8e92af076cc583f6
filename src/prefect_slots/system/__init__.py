"""The operating system, with no word of the domain.

sysfs      devices on the PCI bus and of graphics drivers, and the reader of the kernel's small files
mounts     mounted file systems, and the kinds that networks share
cgroups    limits of memory and cores, and kills for want of memory
container  WSL, a container, a Jetson: what decides how far a driver is believed
processes  their table and lineage, the one test of identity, their memory and file locks
threads    sends looks in threads of their own, and leaves behind those that hang
commands   one run of a vendor's program: no shell, a time limit, nothing left behind
clock      the boot and the time since, and pauses that differ between processes
"""

"""The operating system, with no word of the domain.

sysfs      devices on the PCI bus and of graphics drivers, and the reader of the kernel's small files
mounts     mounted file systems, and the types known to be local
cgroups    limits of memory and cores, and kills for want of memory
container  WSL, a container, a Jetson, MPS: they decide how a driver's answers are read
processes  their table and lineage, the one test of identity, their memory and file locks
threads    calls that may hang, in threads of their own
commands   runs of vendors' programs: no shell, a time limit, nothing left behind
clock      the boot and the time since, and pauses that differ between processes
"""
